# SPDX-License-Identifier: Apache-2.0
"""Write good inputs for every target, for the search to start from: python fuzz/seeds.py FOLDER."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from diskkit.nbd import protocol as p
from diskkit.nbd.asking import ClientNegotiation
from diskkit.nbd.negotiation import Export, ServerNegotiation
from makers import cowd, descriptor, hosted_sparse, sample_grain, sesparse, stream


def image(disk: bytes, extent: bytes = b"") -> bytes:
    """The form that fuzz_image reads."""
    length = len(disk) if extent else 0
    return b"\0" + length.to_bytes(3, "little") + disk + extent


def sized(data: bytes, size: int) -> bytes:
    """The form that the header targets read."""
    return (size << 1).to_bytes(8, "little") + data


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Inputs by target. `folder` is for passing files."""
    found: dict[str, list[bytes]] = {name: [] for name in TARGETS}
    path = folder / "extent.bin"
    grains = {0: sample_grain(1, 8), 3: sample_grain(2, 8)}
    for variant in ("A", "B", "C", "D", "E", "F", "G"):
        stream(path, 40, grains, variant=variant, grain_sectors=8)
        data = path.read_bytes()
        found["image"].append(image(data))
        found["sparse_header"].append(sized(data[:512] + data[-1024:-512], len(data)))
        at = data.index(b"\x78\x9c") - 12
        found["grain"].append(b"\x03" + data[at : at + 512])
    hosted_sparse(path, 40, {0: grains[0], 2: "zero"}, grain_sectors=8)
    data = path.read_bytes()
    found["image"].append(image(data))
    found["sparse_header"].append(sized(data[:512], len(data)))
    cowd(path, 64, {3: b"x" * 512})
    data = path.read_bytes()
    found["cowd_header"].append(sized(data[:2048], len(data)))
    found["image"].append(image(text("vmfsSparse", 'RW 64 VMFSSPARSE "extent.bin"'), data))
    sesparse(path, 64, {3: b"x" * 4096})
    data = path.read_bytes()
    found["sesparse_header"].append(sized(data[:1024], len(data)))
    found["image"].append(image(text("custom", 'RW 8 FLAT "extent.bin" 0'), bytes(4096)))
    found["image"].append(image(text("custom", "RW 8 ZERO", "NOACCESS 8 ZERO")))
    for create_type, line in (("vmfs", 'RW 8 VMFS "x-flat.vmdk"'), ("custom", "RW 8 ZERO")):
        found["descriptor"] += [form + text(create_type, line) for form in (b"\0", b"\1")]
    found["nbd"] = nbd()
    return found


def nbd() -> list[bytes]:
    """The forms that fuzz_nbd reads: both sides of a good session."""
    ask, answer = ClientNegotiation(""), ServerNegotiation({"": Export(1 << 20, p.HAS_FLAGS)})
    to_client, to_server = ServerNegotiation.greeting, b""
    said, heard = to_client, b""
    while ask.offered is None:
        to_server = ask.feed(to_client)
        to_client = answer.feed(to_server)
        said, heard = said + to_client, heard + to_server
    status = b"\0\x10\0" + (1).to_bytes(4, "big") + bytes([0, 0, 8, 0, 0, 0, 0, 3] * 2)
    data = p.chunk(1, p.OFFSET_DATA, bytes(8) + b"x" * 4096, done=True)
    return [b"\0" + heard, b"\1" + said, b"\2" + status, b"\3" + data]


def text(create_type: str, *lines: str) -> bytes:
    """A descriptor."""
    return descriptor(create_type, lines).encode()


TARGETS = ("descriptor", "sparse_header", "grain", "cowd_header", "sesparse_header", "image", "nbd")


def main() -> None:
    """Write FOLDER/<target>/<number> for every seed."""
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as passing:
        for name, inputs in seeds(Path(passing)).items():
            (target / name).mkdir(parents=True, exist_ok=True)
            for number, data in enumerate(inputs):
                (target / name / f"seed-{number}").write_bytes(data)


if __name__ == "__main__":
    main()
