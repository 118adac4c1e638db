"""Price lists of three kinds, to a book that the agent itself reads and prices with."""

from fractions import Fraction
from pathlib import Path

import pytest

from agent.core.ports import ConfigError
from agent.ledger.csv_files import CsvFile, Refusals
from agent.ledger.price_csv import Imported, book_lines, read_prices
from agent.ledger.pricefile import load_prices
from agent.ledger.settings import PricesSettings

HOUR_NS = 3600 * 10**9
T0 = 1_800_000_000 * 10**9

OURS = """gpu,per_gpu_hour,kind,sku,region,effective_from,currency,note
NVIDIA H100*,2.49,on_demand,p5,,,USD,"a ""note"", with: signs #"
NVIDIA H100*,2.99,on_demand,p5,,2027-02-01,USD,
NVIDIA H100*,1.10,spot,,,,USD,
NVIDIA L4,3.1,,,,,CNY,
"""
OPENCOST = """EndTimestamp,InstanceID,Region,AssetClass,InstanceIDField,InstanceType,MarketPriceHourly,Version
2026-04-17 23:34:22 UTC,NVIDIA-A100-SXM4-80GB,,gpu,nvidia.com/gpu_type,,1.75,
2026-04-17 23:34:22 UTC,Tesla_T4,us-east-1,gpu,gpu.nvidia.com/class,,0.35,v1
2026-04-17 23:34:22 UTC,worker-a,,node,metadata.name,,0.24,
2026-04-17 23:34:22 UTC,fast,,pv,spec.storageClassName,,0.0001,
"""
SKYPILOT = """InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice
cpu_4x,,,4.0,16.0,0.2,us-east-1,,
gpu_8x_h100,H100,8.0,208,1800,31.92,us-east-1,"{'Gpus': [{'Name': 'H100', 'Count': 8.0}]}",9.6
gpu_1x_h100,H100,1.0,26,200,4.69,us-east-1,"{'Gpus': [{'Name': 'H100'}]}",
gpu_8x_h100,H100,8.0,208,1800,40,eu-west-1,,
gpu_3x_l4,L4,3,8,64,1.0,us-east-1,,
gpu_4090,RTX4090,1,8,64,0.69,us-east-1,,0
half,L4,0.5,8,64,1.0,us-east-1,,
tpu,tpu-v4-8,1,8,64,1.0,us-east-1,,
mi,MI300X,8,8,64,16.0,us-east-1,,
free,A10G,1,8,64,,us-east-1,,
odd,Quark-7,1,8,64,1.5,us-east-1,,
minus,A10G,1,8,64,-1.5,us-east-1,,
"""


def read(tmp_path: Path, text: str, **options: str) -> tuple[Imported, Refusals]:
    file = tmp_path / "list.csv"
    file.write_text(text)
    with CsvFile(file) as table:
        found = read_prices(table, **options)  # type: ignore[arg-type]
        return found, table.refusals


def book(tmp_path: Path, found: Imported, currency: str, **settings: str) -> dict[str, Fraction]:
    """What the agent makes of the printed book: units per hour."""
    file = tmp_path / "prices.yaml"
    file.write_text("\n".join(book_lines(found.rows, "list.csv")))
    prices = load_prices(PricesSettings(file=file, currency=currency, **settings))  # type: ignore[arg-type]
    assert prices is not None
    models = ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "Tesla T4", "NVIDIA L4", "NVIDIA GeForce RTX 4090"]
    found_prices = {model: prices.price_at(model, T0) for model in models}
    return {model: price * HOUR_NS / 10**9 for model, price in found_prices.items() if price is not None}


def test_our_own_columns(tmp_path: Path) -> None:
    found, refusals = read(tmp_path, OURS)
    assert (found.format, len(found.rows), refusals.count) == ("engineroom", 4, 0)
    assert book(tmp_path, found, "USD") == {"NVIDIA H100 80GB HBM3": Fraction("2.49")}
    assert book(tmp_path, found, "USD", kind="spot") == {"NVIDIA H100 80GB HBM3": Fraction("1.1")}
    assert book(tmp_path, found, "CNY") == {"NVIDIA L4": Fraction("3.1")}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("x,,,,,,USD,", "per_gpu_hour is empty"),
        (",1,,,,,USD,", "gpu is empty"),
        ("x,-1,,,,,USD,", "negative"),
        ("x,1,rented,,,,USD,", "kind: Input should be"),
        ("x,1,,,,soon,USD,", "effective_from: expected a date"),
        ("x,1,,,,,dollars,", "three letters"),
        ("x,1,,,,,,", "--currency"),
        ("=x,1,,,,,USD,", "formula"),
        ("x,nan,,,,,USD,", "not a number"),
        ('x,"1,800",,,,,USD,', "has a ','"),
        ("NVIDIA L4,3,,,,,CNY,", "overlaps line 5"),
        ("x,1,,,,,USD,,,", None),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, line: str, told: str | None) -> None:
    found, refusals = read(tmp_path, OURS + line + "\n")
    assert len(found.rows) == 4 + (told is None)
    assert refusals.first == [] if told is None else told in refusals.first[0][1]
    assert told is None or refusals.first[0][0] == 6


def test_an_unknown_column_is_not_swallowed(tmp_path: Path) -> None:
    _, refusals = read(tmp_path, "gpu,per_gpu_hour,per_month,currency\nx,1,,USD\nx,1,5,USD\n")
    assert refusals.first == [(3, "the column 'per_month' is unknown; expected gpu, per_gpu_hour, kind, sku, region, effective_from, currency, note")]  # fmt: skip  # noqa: E501


def test_opencosts_custom_prices(tmp_path: Path) -> None:
    found, refusals = read(tmp_path, OPENCOST)
    assert (found.format, found.left_out) == ("opencost", 1)
    assert book(tmp_path, found, "USD") == {"NVIDIA A100-SXM4-80GB": Fraction("1.75"), "Tesla T4": Fraction("0.35")}
    assert refusals.first[0][0] == 4
    assert "whole node" in refusals.first[0][1]
    found, _ = read(tmp_path, OPENCOST, currency="CNY", region="eu")
    assert book(tmp_path, found, "CNY") == {"NVIDIA A100-SXM4-80GB": Fraction("1.75")}


def test_skypilots_catalogue_is_divided_by_its_gpus(tmp_path: Path) -> None:
    found, refusals = read(tmp_path, SKYPILOT, region="us-east-1")
    assert (found.format, found.left_out) == ("skypilot", 2)
    prices = book(tmp_path, found, "USD")
    assert prices == {
        "NVIDIA H100 80GB HBM3": Fraction("3.99"),  # eight for 31.92 are cheaper than one for 4.69
        "NVIDIA L4": Fraction("0.333333333333"),
        "NVIDIA GeForce RTX 4090": Fraction("0.69"),
    }
    assert book(tmp_path, found, "USD", kind="spot") == {"NVIDIA H100 80GB HBM3": Fraction("1.2")}
    assert [(number, reason.split(";")[0]) for number, reason in refusals.first] == [
        (8, "AcceleratorCount: '0.5'"),
        (9, "tpu-v4-8 is not a GPU of NVIDIA's, which alone are seen here"),
        (10, "MI300X is not a GPU of NVIDIA's, which alone are seen here"),
        (11, "free: neither Price nor SpotPrice"),
        (13, "Price: -1.5 is negative"),
    ]
    assert "Quark-7" in found.notes[0]


def test_a_catalogue_of_several_regions_says_so(tmp_path: Path) -> None:
    found, _ = read(tmp_path, SKYPILOT)
    assert any("several regions" in note for note in found.notes)
    assert book(tmp_path, found, "USD", region="eu-west-1") == {"NVIDIA H100 80GB HBM3": Fraction(5)}


def test_what_is_no_price_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its columns are a, b; expected gpu"):
        read(tmp_path, "a,b\n1,2\n")
    with pytest.raises(ConfigError, match="has no column 'AcceleratorName'"):
        read(tmp_path, OURS, form="skypilot")


def test_a_list_without_end_is_refused(tmp_path: Path) -> None:
    lines = "".join(f"gpu {number},1,USD\n" for number in range(10_001))
    with pytest.raises(ConfigError, match="more than 10,000"):
        read(tmp_path, "gpu,per_gpu_hour,currency\n" + lines)
