"""The campaign of `make faults` finds faults that are planted, and none where there are none."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parent / "faults" / "campaign.py"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc") or sys.platform != "linux", reason="the faults are planted by a C library")
def test_kills_and_full_disks_are_planted_and_judged():
    done = subprocess.run([sys.executable, str(CAMPAIGN), "planted"], capture_output=True, text=True, timeout=300)
    rows = {
        (kind, subject): [int(number) for number in numbers.replace("of", " ").replace("-", " ").split()]
        for kind, subject, numbers in re.findall(r"^(kill|disk).*: (\w+)  +(.*)$", done.stdout, re.MULTILINE)
    }
    assert done.returncode == 1, done.stderr
    tried, survived, lost = rows["kill", "careless"]
    assert lost >= 2 and survived >= 1 and tried == lost + survived  # between open and write, halfway through; before open
    tried, _, _, told, to_tell = rows["disk", "careless"]
    assert (told, to_tell) == (0, tried)
    tried, survived, lost = rows["kill", "sound"]
    assert tried == survived >= 4 and lost == 0
    tried, survived, lost, told, to_tell = rows["disk", "sound"]
    assert tried == survived and lost == 0 and told == to_tell >= 3
