"""The virtual machine: qemu with the guest of ci/vm/guest, a port to its driver, and a network that leads to one Unix socket."""
import os, re, select, shutil, subprocess, sys, time

import kernel
from matrix import with_us

BOOT_S, BOOT_TRIES, END_S = 60, 5, 4
QEMU = "qemu-system-x86_64"
SERVER = "10.0.2.100:10809"
# A session's socket is set when RCU's callbacks have run, which else is a matter of some ticks.
HASTE = "rcu_nocbs=0"


def missing():
    for program, package in ((QEMU, "qemu-system-x86"), ("setpriv", "util-linux")):
        if not shutil.which(program):
            return f"{program} is not installed (apt-get install {package}, or ci/install vm)"
    return None


class Lost(Exception):
    """There was a machine, or there should have been one."""


class Machine:
    """Of a Run (matrix.py); `more` are arguments of qemu's, and more_files(modules) an archive for its initramfs."""

    def __init__(self, run, more=(), more_files=None):
        if why := missing():
            raise kernel.Untestable(why)
        self.more = more
        self.run, self.process, self.boots, self.boot_s = run, None, 0, 0.0
        self.version, self.vmlinuz, modules = kernel.find()
        self.initramfs = kernel.initramfs(self.version, modules)
        if more_files:
            self.add_files(more_files(modules))
        self.log, self.errors, self.server = run.folder + "/console", run.folder + "/qemu", run.folder + "/server"

    def add_files(self, archive):
        with open(self.initramfs, "rb") as base, open(self.run.folder + "/initramfs", "wb") as f:
            f.write(base.read() + archive)
        self.initramfs = f.name

    def command(self):
        to = f"{os.path.abspath(kernel.FORWARD)} {self.server}"
        return with_us("KILL", QEMU, "-accel", "tcg", "-m", "256", "-smp", "1", "-nodefaults",
                       "-no-user-config", "-display", "none", "-no-reboot", "-kernel", self.vmlinuz, "-initrd", self.initramfs,
                       "-append", "console=ttyS0 loglevel=3 panic=-1 oops=panic mitigations=off tsc=reliable random.trust_cpu=on " + HASTE,
                       "-chardev", f"file,id=console,path={self.log}", "-serial", "chardev:console",
                       "-device", "virtio-serial-pci", "-chardev", "stdio,id=port,signal=off", "-device", "virtserialport,chardev=port",
                       "-netdev", f"user,id=net,restrict=on,guestfwd=tcp:{SERVER}-cmd:{to}", "-device", "virtio-net-pci,netdev=net,romfile=",
                       *self.more)

    def start(self):
        """Up to the greeting of its first driver; False: it does not come."""
        begun = time.monotonic()
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
                                            stderr=errors, pass_fds=[self.run.guard.stdin.fileno()])
        os.set_blocking(self.process.stdin.fileno(), False)
        self.run.started.append(self.process)
        self.kept = b""
        self.factor = 1
        self.greeting = self.line(BOOT_S)
        self.boots, self.boot_s = self.boots + 1, time.monotonic() - begun
        return self.greeting != b""

    def boot(self):
        """A boot may fail for what emulation is: of Linux 6.12 under qemu 7.2 each third does. Time and again is a reason."""
        for left in reversed(range(BOOT_TRIES)):
            if self.start():
                return
            why = self.why()
            self.end()
            if left == 0:
                raise Lost(f"the virtual machine does not boot: {why}; its console: {kernel.BUILD}/console")
            print(f"ci/vm: boots once more: {why}", file=sys.stderr)

    def line(self, seconds):
        """The next one that it says, its end included; b"" where none comes."""
        until = time.monotonic() + seconds
        while b"\n" not in self.kept:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return b""
            data = self.process.stdout.read(1 << 16)
            if not data:
                return b""
            self.kept += data
        line, _, self.kept = self.kept.partition(b"\n")
        return line + b"\n"

    def say(self, data):
        """What a guest does not take any more is dropped: its answer will be missed."""
        fd = self.process.stdin.fileno()
        while data and select.select([], [fd], [], END_S)[1]:
            try:
                data = data[os.write(fd, data):]
            except BrokenPipeError:
                return

    def why(self):
        """What its console, or qemu, said last that tells why."""
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            return "the guest hangs"
        said = open(self.log, errors="replace").read().splitlines() if os.path.exists(self.log) else []
        told = [line for line in said if re.search("BUG|Oops|panic|guest:", line)] or open(self.errors).read().splitlines()
        told = told or [f"qemu's status {self.process.returncode}"]
        return "the guest is gone: " + re.sub(r"^\[ *[0-9.]+\] *", "", told[0])

    def end(self):
        self.process.kill()
        self.process.wait()
        if os.path.exists(self.log):
            shutil.copyfile(self.log, f"{kernel.BUILD}/console")

    def again(self):
        """Another boot; what the console of the one before said is kept in build/vm/console."""
        self.end()
        self.boot()

    # ---- a driver ----

    def lead_to(self, uri):
        """Where the guest's next connection goes."""
        path = re.search(r"[?&]socket=([^&]*)", uri)
        new = self.server + ".new"
        if path:
            os.symlink(re.sub("%([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), path[1]), new)
            os.rename(new, self.server)

    def take_from_driver(self, data):
        """Whole lines."""
        for line in data.splitlines():
            words = line.decode("latin-1").split(" ")
            if words[0] == "options":
                self.factor = int(next((w[12:] for w in words if re.fullmatch("time-factor=[1-9][0-9]*", w)), 1))
            if len(words) > 3 and words[2] in ("connect", "haggle"):
                self.lead_to(words[3])
        self.say(data)

    def relay(self, driver):
        """Until the driver, or the machine, ends. The driver's first line is the guest's options."""
        kept = b""
        while True:
            readable, _, _ = select.select([driver, self.process.stdout], [], [])
            if self.process.stdout in readable:
                data = self.process.stdout.read(1 << 16)
                if not data:
                    return
                driver.sendall(data)
            if driver in readable:
                data = driver.recv(1 << 16)
                if not data:
                    return
                lines, end, kept = (kept + data).rpartition(b"\n")
                self.take_from_driver(lines + end)

    def serve(self, driver):
        with driver:
            try:
                driver.sendall(self.greeting)
                self.relay(driver)
            except OSError:  # it was killed
                pass
            self.say(b"end\n")
            self.kept, self.greeting = b"", self.next_greeting()
            if self.greeting:
                return
            why = self.why()
            try:
                driver.sendall(b"!" + why.encode() + b"\n")
            except OSError:
                pass
        self.again()

    def next_greeting(self):
        until = time.monotonic() + END_S * self.factor
        while line := self.line(max(0, until - time.monotonic())):
            if line.startswith(b"nbdspec-driver "):
                return line
        return b""
