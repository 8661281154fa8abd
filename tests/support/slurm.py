"""A real Slurm on this machine: munged, slurmctld and slurmd, with files of its own.

They run as the user of the tests, without systemd, and believe that the machine has
more processors than it has: jobs of tests wait most of the time.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil
import pytest

PROCESSORS = 6
SOON_S = 60.0
LOOK_S = 0.05

CONFIG = """\
ClusterName=tests
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=2
OverTimeLimit=0
NodeName=localhost CPUs={processors} State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
PartitionName=closed Nodes=localhost MaxTime=INFINITE State=DOWN
"""


class Slurm:
    """The three daemons; commands find them by SLURM_CONF."""

    def __init__(self) -> None:
        """Start them; returns when jobs can run."""
        programs = [shutil.which(name) for name in ("munged", "slurmctld", "slurmd")]
        assert all(programs), "apt-get install slurm-wlm"
        # Names of Unix sockets are short, so not in a folder of pytest.
        self.folder = Path(tempfile.mkdtemp(prefix="mpreg-slurm-"))
        self.folder.chmod(0o711)  # munge wants others to reach its socket
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        controller_port, daemon_port = free_ports(2)
        self.config = self.folder / "slurm.conf"
        self.config.write_text(
            CONFIG.format(
                user=psutil.Process().username(),
                folder=self.folder,
                controller_port=controller_port,
                daemon_port=daemon_port,
                processors=PROCESSORS,
            )
        )
        self._daemons = [
            self._started(
                *("munged", "--foreground", "--force"),
                f"--socket={self.folder}/munge.sock",
                f"--key-file={key}",
                f"--pid-file={self.folder}/munged.pid",
                f"--seed-file={self.folder}/munged.seed",
                f"--log-file={self.folder}/munged.log",
            )
        ]
        self._until_up(lambda: (self.folder / "munge.sock").exists())
        self._daemons += [
            self._started("slurmctld", "-D"),
            self._started("slurmd", "-D"),
        ]
        self._until_up(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T"))

    def _until_up(self, is_up: Callable[[], bool]) -> None:
        """Wait until the daemons run; skip the tests where Slurm itself cannot run.

        It needs a host name that leads to this machine, and control groups that it
        knows.
        """
        deadline = time.monotonic() + SOON_S
        while time.monotonic() < deadline:
            if is_up():
                return
            if any(daemon.poll() is not None for daemon in self._daemons):
                break
            time.sleep(LOOK_S)
        said = [path.read_text(errors="replace") for path in self._logs()]
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait(SOON_S)
        shutil.rmtree(self.folder)
        pytest.skip(f"this machine does not run Slurm: {' '.join(said)[-2000:]}")

    def _logs(self) -> list[Path]:
        return sorted([*self.folder.glob("*.out"), *self.folder.glob("*.log")])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.ask("scancel", "--me", "--signal=KILL")
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(SOON_S)
        shutil.rmtree(self.folder)

    def _started(self, *command: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{command[0]}.out").open("wb") as output:
            return subprocess.Popen(
                (
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    *command,
                ),  # with the tests, if they die
                stdout=output,
                stderr=output,
                env={**os.environ, "SLURM_CONF": str(self.config)},
                start_new_session=True,
            )

    def ask(self, *command: str) -> str:
        """Run a command of Slurm; return what it prints."""
        return subprocess.run(
            command,
            env={**os.environ, "SLURM_CONF": str(self.config)},
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    def states(self) -> dict[str, str]:
        """Return job name -> state of all jobs that have not ended."""
        lines = self.ask("squeue", "--noheader", "--format=%j|%T").splitlines()
        return dict(line.split("|") for line in lines)

    def id_of(self, name: str) -> str:
        """Return the id of the job of this name that has not ended."""
        return self.ask("squeue", "--noheader", f"--name={name}", "--format=%i").strip()

    def use(self, patch: pytest.MonkeyPatch) -> None:
        """Let this process submit jobs to it."""
        patch.setenv("SLURM_CONF", str(self.config))


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at."""
    links = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [link.getsockname()[1] for link in links]
    for link in links:
        link.close()
    return ports
