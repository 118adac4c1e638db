from agent.core.catalogue_xids import XIDS


def test_names_follow_the_rules_of_the_catalogue():
    for metric in XIDS:
        assert metric.name.startswith("engineroom_gpu_")
        assert metric.name.endswith("_total") == (metric.type == "counter")
        assert not metric.unit or metric.name.removesuffix("_total").endswith(metric.unit)
        assert metric.labels[0] == "node"
        assert metric.help.endswith(".")
