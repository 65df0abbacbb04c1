import subprocess
import sys

import gauss
import pytest


@pytest.mark.parametrize("last", [0, 1, 10, 1000])
def test_sum(last):
    assert gauss.sum(last) == sum(range(last + 1))


def test_wrong_type():
    with pytest.raises(TypeError):
        gauss.sum("x")


def test_in_a_process_of_its_own(tmp_path):
    output = subprocess.check_output([sys.executable, "-c", "import gauss; print(gauss.sum(4))"], cwd=tmp_path)
    assert output == b"10\n"
