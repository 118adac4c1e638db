from pathlib import Path

import pytest

from agent.app import check_settings
from agent.config import load
from agent.core.ports import ConfigError
from docs.generate import ROOT


def test_what_the_settings_lead_to(tmp_path: Path) -> None:
    file = tmp_path / "engineroom.yaml"
    file.write_text(
        f"prices: {{file: {ROOT}/deploy/examples/prices.yaml, currency: USD}}\n"
        "engines: {targets: [{name: a, url: 'http://127.0.0.1:8000'}]}\n"
    )
    lines = list(check_settings(load(file, {})))
    assert lines[0].startswith("rules: ")
    assert lines[1:] == ["prices: in USD", "api: http://127.0.0.1:9440/ for everybody who reaches it", "engines: a"]


def test_quotas_of_money_are_in_the_currency_of_the_prices(tmp_path: Path) -> None:
    file = tmp_path / "engineroom.yaml"
    quotas = "quotas: {rules: [{name: a, money: {amount: 5, currency: CNY, period: day}}]}\n"
    file.write_text(quotas)
    with pytest.raises(ConfigError, match=r"quotas\.rules\.0\.money\.currency: is CNY, but there are no prices"):
        list(check_settings(load(file, {})))
    prices = f"prices: {{file: {ROOT}/deploy/examples/prices.yaml, currency: USD}}\n"
    file.write_text(prices + quotas)
    with pytest.raises(ConfigError, match="is CNY, but prices are in USD"):
        list(check_settings(load(file, {})))
    file.write_text(prices + quotas.replace("CNY", "USD"))
    assert "quotas: a (observe)" in list(check_settings(load(file, {})))


def test_files_of_credentials_are_read_too(tmp_path: Path) -> None:
    file = tmp_path / "engineroom.yaml"
    file.write_text("api: {auth: {tokens: [{name: a, file: token, scopes: [metrics]}]}}\n")
    with pytest.raises(ConfigError, match=r"api\.auth\.tokens"):
        list(check_settings(load(file, {})))
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef\n")
    assert "api: http://127.0.0.1:9440/ for callers with credentials" in list(check_settings(load(file, {})))
    file.write_text("api: {tls: {certificate_file: token, key_file: token}}\n")
    with pytest.raises(ConfigError, match=r"api\.tls\.certificate_file"):
        list(check_settings(load(file, {})))


def test_a_price_file_in_two_currencies_needs_a_choice(tmp_path: Path) -> None:
    file = tmp_path / "engineroom.yaml"
    file.write_text(f"prices: {{file: {ROOT}/deploy/examples/prices.yaml}}\n")
    with pytest.raises(ConfigError, match=r"prices\.currency: there are books in .*CNY"):
        list(check_settings(load(file, {})))
