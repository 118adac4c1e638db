"""What the section `tariff` takes."""

import pytest
from pydantic import ValidationError

from agent.runners.tariff_settings import TariffSettings


def test_with_nothing_said_constants_are_fitted_and_nobody_owns_slots():
    settings = TariffSettings()
    assert (settings.fit, settings.models, settings.gpus, settings.owners) == (True, (), (), ())


@pytest.mark.parametrize("wrong", [{"compute_efficiency": 0}, {"memory_efficiency": 1.1}, {"models": [{"model": "x"}]}])
def test_what_cannot_be_is_refused(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        TariffSettings.model_validate(wrong)


def test_an_owner_must_say_which_slots():
    with pytest.raises(ValidationError, match="say which slots are reserved for 'acme'"):
        TariffSettings.model_validate({"owners": [{"tenant": "acme"}]})
