"""What the referee sees behind messages that are longer than the trace keeps."""

import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_long_replies_hide_nothing(tmp_path):
    """A READ of 64 KiB is answered by a chunk that the trace cuts; the one of more than 32 MiB behind it is judged all the same."""
    subprocess.run(["make", "-s", "drivers"], cwd=ROOT, check=True)
    report = tmp_path / "report"
    run = subprocess.run([ROOT / "build/nbdspec", "client", "--case", "wire/interoperable", "--strict", "-q", "--tap", report,
                          "--driver", ROOT / "build/drivers/libnbd"], stdout=subprocess.DEVNULL)
    assert run.returncode == 1
    assert 'requirement: "client_default_max_payload"' in report.read_text()
