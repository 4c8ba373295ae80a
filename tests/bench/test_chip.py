"""The chip card's parsers, on what the commands of such machines print, and the table of ceilings."""

import json
import time
from dataclasses import asdict
from statistics import median

import pytest

from mlx_diffucoder.bench import ceilings, chip
from mlx_diffucoder.bench.ceilings import ceilings_named, ceilings_of, known_chips, table
from mlx_diffucoder.bench.chip import card_of
from mlx_diffucoder.bench.timing import Timing
from mlx_diffucoder.errors import BenchError

# Chip, GPU cores, bytes of memory, macOS, GB/s that Apple states.
MACS = [
    ("Apple M1", 7, 8 << 30, "14.6.1", 68),
    ("Apple M1 Pro", 14, 16 << 30, "13.6.9", 200),
    ("Apple M1 Max", 24, 32 << 30, "15.1", 400),
    ("Apple M1 Ultra", 64, 128 << 30, "15.3.1", 800),
    ("Apple M2", 10, 24 << 30, "14.2.1", 100),
    ("Apple M2 Pro", 19, 32 << 30, "15.5", 200),
    ("Apple M2 Max", 38, 96 << 30, "15.6", 400),
    ("Apple M2 Ultra", 60, 192 << 30, "14.7", 800),
    ("Apple M3", 8, 16 << 30, "15.0", 100),
    ("Apple M3 Pro", 14, 18 << 30, "15.2", 150),
    ("Apple M3 Max", 30, 36 << 30, "15.4", 300),
    ("Apple M3 Max", 40, 128 << 30, "15.4", 400),
    ("Apple M3 Ultra", 80, 512 << 30, "26.0", 819),
    ("Apple M4", 10, 32 << 30, "26.1", 120),
    ("Apple M4 Pro", 16, 24 << 30, "15.3", 273),
    ("Apple M4 Max", 32, 36 << 30, "26.2", 410),
    ("Apple M4 Max", 40, 128 << 30, "26.2", 546),
    ("Apple M5", 10, 32 << 30, "26.0.1", 153),
    ("Apple M5 Pro", 20, 64 << 30, "26.3", 307),
    ("Apple M5 Max", 32, 36 << 30, "26.3", 460),
    ("Apple M5 Max", 40, 128 << 30, "26.3", 614),
]
BATTERY = " -InternalBattery-0 (id=22610019)\t84%; discharging; 6:32 remaining present: true\n"
SETTINGS = """System-wide power settings:
Currently in use:
 standby              1
 Sleep On Power Button 1
 hibernatefile        /var/vm/sleepimage
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                1 (sleep prevented by coreaudiod, sharingd)
 {mode}
 displaysleep         2
"""
COOL = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""
HOT = "CPU Power notify\n\tCPU_Scheduler_Limit \t= 100\n\tCPU_Available_CPUs \t= 10\n\tCPU_Speed_Limit \t= 63\n"


def displays(name, cores):
    own = {
        "_name": name,
        "spdisplays_mtlgpufamilysupport": "spdisplays_metal3",
        "spdisplays_ndrvs": [{"_name": "Color LCD", "_spdisplays_pixels": "3456 x 2234"}],
        "spdisplays_vendor": "sppci_vendor_Apple",
        "sppci_bus": "spdisplays_builtin",
        "sppci_cores": str(cores),
        "sppci_device_type": "spdisplays_gpu",
        "sppci_model": name,
    }
    return json.dumps({"SPDisplaysDataType": [own]}, indent=2)


def mac(name, cores, memory, system, *, source="AC Power", mode="lowpowermode         0", thermal=COOL):
    """What the commands of such a Mac print."""
    said = {
        chip.SYSCTL: f"hw.memsize: {memory}\nmachdep.cpu.brand_string: {name}\nkern.osproductversion: {system}\n",
        chip.DISPLAYS: displays(name, cores),
        chip.POWER: SETTINGS.format(mode=mode),
        chip.BATTERY: f"Now drawing from '{source}'\n" + BATTERY,
        chip.THERMAL: thermal,
    }
    return lambda command: said[command]


def card(run, **device):
    return card_of(device, "Metal", "0.32.4", run=run, memory=5, system="Darwin")


@pytest.mark.parametrize(("name", "cores", "memory", "system", "gb_per_s"), MACS)
def test_the_card_of_a_mac_names_its_chip_bin_and_bandwidth(name, cores, memory, system, gb_per_s):
    found = card(mac(name, cores, memory, system), device_name=name, architecture="applegpu_g16s")
    assert (found.chip, found.gpu_cores, found.memory_bytes, found.system) == (name, cores, memory, f"macOS {system}")
    assert (found.power, found.low_power_mode, found.thermal, found.warnings) == ("AC Power", False, "nominal", [])
    known = ceilings_of(found.chip, found.gpu_cores)
    assert known.gb_per_s == gb_per_s
    assert known.bandwidth == pytest.approx(0.9e9 * gb_per_s)


def test_what_slows_a_mac_down_is_on_its_card():
    run = mac("Apple M4", 10, 16 << 30, "15.0", source="Battery Power", mode="powermode            1", thermal=HOT)
    found = card(run)
    assert (found.power, found.low_power_mode, found.thermal) == ("Battery Power", True, "CPU_Speed_Limit 63 %")
    assert len(found.warnings) == 3
    assert "63 %" in found.warnings[2]
    assert chip.parse_low_power_mode(SETTINGS.format(mode="powermode            2")) is False
    assert chip.parse_thermal("thermal warning level set to 2") == "warning level 2"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"SPDisplaysDataType": [{"sppci_cores": "many"}]}', "\x00 garbage: =\n"]
)
def test_a_mac_whose_commands_say_nothing_of_use_still_has_a_card(text):
    found = card(lambda command: text, device_name="Apple M9 Ultra")
    assert (found.chip, found.gpu_cores, found.memory_bytes) == ("Apple M9 Ultra", None, 5)
    assert (found.power, found.low_power_mode, found.thermal, found.warnings) == (None, None, None, [])
    assert ceilings_of(found.chip, found.gpu_cores) is None
    assert "not known" in "\n".join(found.lines())


def test_a_gpu_of_another_maker_has_its_own_memory_on_the_card():
    device = {"device_name": "NVIDIA H100 80GB HBM3", "architecture": "sm_90", "total_memory": 85520809984, "free_memory": 1}
    found = card_of(device, "CUDA", "0.32.4", run=None, memory=5, system="Linux")
    assert (found.chip, found.backend, found.memory_bytes) == ("NVIDIA H100 80GB HBM3", "CUDA", 85520809984)
    assert ceilings_of(found.chip) is None


def test_a_plain_cpu_has_the_hosts_memory_on_the_card():
    device = {"device_name": "AMD EPYC 7763 64-Core Processor", "architecture": "x86_64"}
    found = card_of(device, "CPU", "0.32.4", run=None, memory=5, system="Linux")
    assert (found.chip, found.gpu_cores, found.memory_bytes) == ("AMD EPYC 7763 64-Core Processor", None, 5)
    assert found.system.startswith("Linux ")


def test_commands_that_are_missing_fail_or_hang_say_nothing(monkeypatch):
    assert chip.run_command(("no-such-command-anywhere",)) == ""
    assert chip.run_command(("sh", "-c", "echo known; exit 1")) == "known\n"
    assert chip.run_command(("cat",)) == ""  # it waits for no input
    monkeypatch.setattr(chip, "SECONDS", 0.2)
    began = time.perf_counter()
    assert chip.run_command(("sleep", "20")) == ""
    assert time.perf_counter() - began < 10


def test_this_machine_has_a_card():
    found = chip.read_card()
    assert found.chip
    assert found.memory_bytes > 1e8
    assert json.loads(json.dumps(asdict(found)))["mlx"] == found.mlx


def test_every_chip_of_the_table_has_ceilings_and_bins_in_order():
    assert len(known_chips()) == 18
    for row in table()["chips"]:
        cores = [one["gpu_cores"] for one in row["bins"]]
        assert cores == sorted(cores)
        assert all(ceilings_of(row["name"], count).flops > 0 for count in cores)
    names = {row["name"] for row in table()["chips"]}
    assert {row["chip"] for row in table()["published"]} == names
    assert {row["source"] for row in table()["published"] + table()["published_without_chip"]} <= table()["sources"].keys()


def test_the_matmul_rates_are_the_medians_of_the_published_rows():
    rates = {}
    for row in table()["published"]:
        if "prompt" in row:
            rate = 2 * table()["measured_model"]["parameters"] * row["prompt"] / row["gpu_cores"] / 1e12
            rates.setdefault(row["chip"].split()[1], []).append(rate)
    for generation, fit in table()["fit"]["generations"].items():
        assert fit["tflops_per_gpu_core"] == pytest.approx(median(rates[generation]), rel=0.005)


@pytest.mark.parametrize(
    ("named", "chip_name", "gb_per_s"),
    [
        ("M5 Max", "Apple M5 Max (40 GPU cores)", 614),
        ("m5 max 32", "Apple M5 Max (32 GPU cores)", 460),
        ("Apple  M4 Max (32 cores)", "Apple M4 Max (32 GPU cores)", 410),
        ("M3 Max, 30-core", "Apple M3 Max (30 GPU cores)", 300),
        ("m1", "Apple M1 (8 GPU cores)", 68),
    ],
)
def test_a_chip_can_be_named_as_people_do(named, chip_name, gb_per_s):
    found = ceilings_named(named)
    assert (found.chip, found.gb_per_s) == (chip_name, gb_per_s)


@pytest.mark.parametrize("name", ["M6", "M5 Mini", "", "Max", "NVIDIA H100", "40"])
def test_a_chip_that_is_not_in_the_table_is_refused_by_name(name):
    with pytest.raises(BenchError, match="not in the table"):
        ceilings_named(name)


def test_a_chip_that_is_misspelt_is_the_one_that_may_be_meant():
    with pytest.raises(BenchError, match=r"did you mean 'M4 Max'\?"):
        ceilings_named("m4 mxa")


def test_measured_ceilings_are_those_of_the_work_that_was_timed(monkeypatch):
    """A copy of n bytes reads and writes n, a row reads a matrix once, and a matmul of side s takes 2 s^3 operations."""
    sizes = []

    def half_a_second(work, trials):
        _, first, second = work.args
        sizes.append(first.shape if isinstance(second, int) else second.shape)
        work()
        return Timing(1.0, 0.5, 2.0, trials)

    monkeypatch.setattr(ceilings, "timings", half_a_second)
    found = ceilings.measure_ceilings("this")
    assert sizes == [(64 << 18,), (2048, 2048), (512, 512)]
    assert found.bandwidth == pytest.approx(max(2 * 4 * (64 << 18), 4 * 2048**2) / 0.5)
    assert found.flops == pytest.approx(2 * 512**3 / 0.5)
    assert found.overhead == 0
    assert "measured" in found.source
