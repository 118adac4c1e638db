import pytest

from agent.demo.gpus import machine


@pytest.mark.parametrize("name", machine.names())
def test_machines_that_come_along_are_sound(name):
    found = machine.load(name)
    assert found.name == name
    for facts in found.gpus:
        assert len(set(facts.pci_buses)) == facts.count
        assert 0 < facts.memory_reserved_bytes < facts.memory_total_bytes
        if facts.load is not None:
            assert facts.idle.power_watts < facts.load.power_watts <= facts.assumed.full_power_watts
            assert facts.idle.clocks_megahertz.keys() == facts.load.clocks_megahertz.keys()
        if facts.power_limit_watts is None:
            continue  # a virtual GPU
        assert facts.power_limit_min_watts <= facts.power_limit_watts <= facts.power_limit_max_watts
        assert facts.assumed.full_power_watts <= facts.power_limit_watts
        assert (facts.slowdown_celsius is None) != (facts.slowdown_margin_celsius is None)


def test_names():
    assert set(machine.names()) >= {"h100mig", "h100x8", "h200", "l4", "l40s", "rtx2080s", "rtx4080sx2", "t4"}


def test_a_wrong_name_lists_the_right_ones():
    with pytest.raises(ValueError, match="h100mig, h100x8, h200, "):
        machine.load("h200x9")


@pytest.mark.parametrize(("text", "says"), [("{}", "not a machine file"), (None, "format 9")])
def test_a_wrong_file_is_refused(tmp_path, text, says):
    path = tmp_path / "m.json"
    path.write_text(text or (machine.FOLDER / "h100x8.json").read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(ValueError, match=says):
        machine.load(str(path))
