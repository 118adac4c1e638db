"""What is said of a metric."""

from typing import Literal

from msgspec import Struct

MetricType = Literal["gauge", "counter", "histogram", "info"]


class Metric(Struct, frozen=True):
    """One metric family. Sample labels are exactly `labels`; a label whose value is empty is left out."""

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""


NODE = ("node",)
