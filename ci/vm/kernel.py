"""The guest's kernel with the modules that it needs, and the initramfs made of them; kept in build/vm under the kernel's version.

The kernel is Debian's cloud kernel: KERNEL_DEB=file.deb, or the one that is installed, or the one that apt has, which is
downloaded and unpacked, and not installed. Only one run at a time makes anything there.
"""
import contextlib, fcntl, glob, io, lzma, os, pathlib, re, shutil, subprocess, tempfile

from matrix import with_us

BUILD = "build/vm"
GUEST, FORWARD = f"{BUILD}/guest", f"{BUILD}/forward"
PACKAGE = "linux-image-cloud-amd64"
# Loaded at boot, with what they depend on; nbd is loaded for each driver.
MODULES = ["virtio_pci", "virtio_console", "virtio_net", "virtio_blk"]
LATER = ["nbd"]


class Untestable(Exception):
    """What is not there, and what to do."""


class Failed(Untestable):
    """A command, for what it was given."""


@contextlib.contextmanager
def alone():
    """Nobody else makes anything in build/vm meanwhile; what one that was killed has left there goes."""
    os.makedirs(BUILD, exist_ok=True)
    with open(f"{BUILD}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in glob.glob(f"{BUILD}/new-*"):
            shutil.rmtree(folder)
        yield


def new_folder():
    return tempfile.TemporaryDirectory(dir=BUILD, prefix="new-")


def run(*command, **options):
    """Its output. It ends with us."""
    p = subprocess.run(with_us("KILL", *command), stdin=subprocess.DEVNULL, text=True, capture_output=True, **options)
    if p.returncode:
        lines = (p.stderr.strip() or p.stdout.strip() or "no word").splitlines()
        raise Failed(f"{' '.join(command[:3])} fails: {next((line for line in lines if ': ' in line), lines[-1])}")
    return p.stdout


def newest(paths):
    return max(paths, key=lambda path: [int(n) for n in re.findall("[0-9]+", path)], default=None)


def place_of(root):
    """(version, vmlinuz, modules) below a root, or None."""
    vmlinuz = newest(glob.glob(f"{root}/boot/vmlinuz-*-cloud-amd64"))
    version = vmlinuz and vmlinuz.split("vmlinuz-")[1]
    for modules in (f"{root}/lib/modules/{version}", f"{root}/usr/lib/modules/{version}"):
        if version and os.path.isdir(modules):
            return version, vmlinuz, modules
    return None


def unpack(deb):
    """The package, unpacked below build/vm; whole or not at all."""
    name = os.path.basename(deb).removesuffix(".deb")
    to = f"{BUILD}/{name}"
    if not place_of(to):
        shutil.rmtree(to, ignore_errors=True)
        with new_folder() as folder:
            run("dpkg-deb", "-x", deb, folder + "/root")
            if not place_of(folder + "/root"):
                raise Untestable(f"{deb} has no cloud kernel for amd64")
            os.rename(folder + "/root", to)
    return place_of(to)


def download():
    """apt's newest, kept below build/vm."""
    package = re.search(r"Depends: (linux-image-\S+)", run("apt-cache", "depends", PACKAGE))
    if not package:
        raise Untestable(f"apt knows no {PACKAGE}: apt-get update, or KERNEL_DEB=file.deb")
    version = re.search(r"Candidate: (\S+)", run("apt-cache", "policy", package[1], env={**os.environ, "LC_ALL": "C"}))
    name = f"{package[1]}_{version[1].replace(':', '%3a')}_amd64.deb"
    if not os.path.exists(f"{BUILD}/{name}"):
        with new_folder() as folder:
            run("apt-get", "download", package[1], cwd=folder)
            os.rename(glob.glob(folder + "/*.deb")[0], f"{BUILD}/{name}")
    return f"{BUILD}/{name}"


def find():
    """(version, vmlinuz, modules)."""
    deb = os.environ.get("KERNEL_DEB")
    if deb and not os.path.exists(deb):
        raise Untestable(f"KERNEL_DEB={deb} is not there")
    with alone():
        if deb:
            return unpack(deb)
        return place_of("") or unpack(download())


# ---- the initramfs ----

def module_data(path):
    data = open(path, "rb").read()
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if path.endswith(".zst"):
        return subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


class Modules:
    def __init__(self, folder):
        self.paths = {os.path.basename(path).split(".ko")[0].replace("-", "_"): path
                      for path in glob.glob(f"{folder}/kernel/**/*.ko*", recursive=True)}
        with open(f"{folder}/modules.builtin") as f:
            self.builtin = {os.path.basename(line.strip()).removesuffix(".ko").replace("-", "_") for line in f}
        self.order = []  # (name, contents), each behind what it depends on

    def add(self, name, on_the_way=()):
        name = name.replace("-", "_")
        if name in self.builtin or name in (done for done, _ in self.order) or name in on_the_way:
            return
        if name not in self.paths:
            raise Untestable(f"the kernel has no module {name}: KERNEL_DEB must be a cloud kernel")
        data = module_data(self.paths[name])
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in (depends[1].decode().split(",") if depends and depends[1] else ()):
            self.add(other, (*on_the_way, name))
        self.order.append((name, data))


class Archive:
    """cpio's format newc, as the kernel wants it."""

    def __init__(self):
        self.out, self.inode = io.BytesIO(), 0

    def add(self, name, data=b"", mode=0o100644, rdev=(0, 0)):
        self.inode += 1
        path = name.encode() + b"\0"
        head = [self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(path), 0]
        for part in (b"070701" + b"".join(b"%08X" % n for n in head) + path, data):
            self.out.write(part + bytes(-len(part) % 4))

    def contents(self):
        self.add("TRAILER!!!", mode=0)
        return self.out.getvalue()


def changed(path):
    """When; one that was installed is not older than its installation."""
    return max(os.stat(path).st_mtime, os.stat(path).st_ctime) if path else 0


def shared_objects(program):
    """What the loader needs for it, under the names by which it asks for them."""
    return re.findall(r"(?:=> |\t)(/\S+) \(0x", run("ldd", program))


def nbd_client():
    """Its path, or None."""
    return shutil.which("nbd-client", path=os.environ.get("PATH", "") + ":/usr/sbin")


def initramfs(version, modules):
    """Its path; made anew when a program in it has changed."""
    path = f"{BUILD}/initramfs-{version}"
    for program in (GUEST, FORWARD):
        if not os.path.exists(program):
            raise Untestable(f"{program} is missing: make machine")
    with alone():
        if not os.path.exists(path) or os.path.getmtime(path) <= max(map(changed, (GUEST, __file__, modules, nbd_client()))):
            with new_folder() as folder:
                with open(f"{folder}/initramfs", "wb") as f:
                    f.write(guest_files(modules))
                os.rename(f"{folder}/initramfs", path)
    return path


def workload_files(modules, filesystem, program):
    """What stands behind the initramfs for a workload: its program, and the modules of its filesystem."""
    found, archive = Modules(modules), Archive()
    found.add(filesystem)
    for name, data in found.order:
        archive.add(f"modules/{name}", data)
    archive.add("modules/filesystem", "".join(f"/modules/{name}\n" for name, _ in found.order).encode())
    with open(program, "rb") as f:
        archive.add("workload", f.read(), mode=0o100755)
    return archive.contents()


def add_program(archive, program, name):
    """With its folders, and what it is linked to."""
    files = {name: program, **{path: path for path in shared_objects(program)}}
    for folder in sorted({str(parent) for path in files for parent in pathlib.PurePath(path).parents} - {"/"}):
        archive.add(folder[1:], mode=0o040755)
    for path, source in files.items():
        archive.add(path[1:], open(source, "rb").read(), mode=0o100755)


def guest_files(modules):
    """The archive."""
    found = Modules(modules)
    for name in MODULES:
        found.add(name)
    boot = len(found.order)
    for name in LATER:
        found.add(name)
    archive = Archive()
    for folder in ("dev", "proc", "sys", "modules"):
        archive.add(folder, mode=0o040755)
    archive.add("dev/console", mode=0o020600, rdev=(5, 1))
    archive.add("init", open(GUEST, "rb").read(), mode=0o100755)
    if nbd_client():
        add_program(archive, nbd_client(), "/usr/sbin/nbd-client")
    for name, data in found.order:
        archive.add(f"modules/{name}", data)
    archive.add("modules/order", "".join(f"/modules/{name}\n" for name, _ in found.order[:boot]).encode())
    return archive.contents()
