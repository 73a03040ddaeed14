"""XMP packets: what ElementTree, Pillow and exiftool read of ours, and what we read of others'."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image, ImageSequence

from mlxdiff.animate import write_animation
from mlxdiff.containers import xmp
from mlxdiff.images import write_picture
from mlxdiff.metadata import provenance, read_picture

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
XMP = "{http://ns.adobe.com/xap/1.0/}"
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
FORMATS = ("a.png", "a.jpg", "a.webp", "b.webp", "a.gif")


def written(folder, name):
    """A picture, or an animation of three, that says who made it."""
    path = folder / name
    if name in ("b.webp", "a.gif"):
        write_animation(path, iter([PIXELS, PIXELS[::-1], PIXELS]), 3, fps=10, text=provenance.text())
    else:
        write_picture(path, PIXELS, provenance.text())
    return path


def test_the_packet_is_xml_that_says_what_the_standard_wants():
    packet = xmp.packet(xmp.TRAINED, "a <b> & 1.0")
    assert packet.startswith("<?xpacket begin=")
    assert packet.endswith('<?xpacket end="r"?>')
    inner = packet[packet.index("?>") + 2 : packet.rindex("<?")]
    (description,) = ET.fromstring(inner).iter(f"{RDF}Description")
    assert description.attrib == {f"{RDF}about": ""}
    assert {child.tag: child.text for child in description} == {
        f"{IPTC}DigitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
        f"{XMP}CreatorTool": "a <b> & 1.0",
    }


@pytest.mark.parametrize("name", FORMATS)
def test_it_is_read_back_from_every_format(tmp_path, name):
    path = written(tmp_path, name)
    found = read_picture(path)
    assert (found.provenance, found.size) == (xmp.TRAINED, (32, 24))
    with Image.open(path) as picture:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
    assert len(frames) == (3 if name in ("b.webp", "a.gif") else 1)  # none of which the packet is in the way of


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "a.gif"])  # of which Pillow reads no XMP
def test_pillow_reads_it(tmp_path, name):
    pytest.importorskip("defusedxml")
    with Image.open(written(tmp_path, name)) as picture:
        description = picture.getxmp()["xmpmeta"]["RDF"]["Description"]
    assert description["DigitalSourceType"] == xmp.TRAINED
    assert description["CreatorTool"] == provenance.TOOL


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("name", FORMATS)
def test_exiftool_reads_it(tmp_path, name):
    path = written(tmp_path, name)
    said = json.loads(subprocess.run(["exiftool", "-j", "-G1", "-a", path], capture_output=True, check=True).stdout)[0]
    assert said["XMP-iptcExt:DigitalSourceType"] == xmp.TRAINED
    assert said["XMP-xmp:CreatorTool"] == provenance.TOOL
    assert "ExifTool:Error" not in said


@pytest.mark.parametrize("name", FORMATS)
def test_the_bytes_are_the_same_each_time(tmp_path, name):
    (tmp_path / "again").mkdir()
    assert written(tmp_path, name).read_bytes() == written(tmp_path / "again", name).read_bytes()


def others(inner: str, attributes: str = "", prefix: str = "Iptc4xmpExt") -> str:
    space = f"xmlns:{prefix}='http://iptc.org/std/Iptc4xmpExt/2008-02-29/'"
    return f"<x:xmpmeta><rdf:RDF><rdf:Description {space} {attributes}>{inner}</rdf:Description></rdf:RDF></x:xmpmeta>"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (others(f"<Iptc4xmpExt:DigitalSourceType>\n {xmp.EDITED} \n</Iptc4xmpExt:DigitalSourceType>"), xmp.EDITED),
        (others("", f'Iptc4xmpExt:DigitalSourceType="{xmp.TRAINED}"'), xmp.TRAINED),
        (others(f"<e:DigitalSourceType rdf:resource='{xmp.MIXED}'/>", prefix="e"), xmp.MIXED),
        (others("", f"q:DigitalSourceType='{xmp.TRAINED.replace('http:', 'https:')}'", "q"), xmp.TRAINED),
        (others("", "q:DigitalSourceType='digsrctype:digitalCapture'", "q"), xmp.VOCABULARY + "digitalCapture"),
        (others("", "other:DigitalSourceType='x'"), None),
        (others("", f"Iptc4xmpExt:DigitalSourceType='{'x' * 300}'"), None),
        ("<x:xmpmeta/>", None),
        ("", None),
    ],
)
def test_what_others_write(text, found):
    assert xmp.source_type(text) == found


def test_exiftools_own_packet_is_read(tmp_path):
    """Its words for the term, in the form that it writes."""
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    for name in ("a.png", "a.jpg", "a.webp"):
        write_picture(tmp_path / name, PIXELS)
    term = f"-XMP-iptcExt:DigitalSourceType={xmp.EDITED}"
    subprocess.run(["exiftool", "-q", term, *tmp_path.glob("a.*")], check=True)
    assert [read_picture(path).provenance for path in sorted(tmp_path.glob("a.*[gp]"))] == [xmp.EDITED] * 3


@pytest.mark.parametrize(
    "text",
    [
        "xmlns:a='http://iptc.org/std/Iptc4xmpExt/2008-02-29/'" + "<a:DigitalSourceType " * 40_000,
        "xmlns:a='http://iptc.org/std/Iptc4xmpExt/2008-02-29/'" + " a:DigitalSourceType=" * 40_000,
        "xmlns:" * 150_000,
        "".join(f"xmlns:p{i}='http://iptc.org/std/Iptc4xmpExt/2008-02-29/'" for i in range(15_000)),
        "xmlns:a" + " " * 10**6,
    ],
)
def test_hostile_packets_take_no_time(text):
    began = time.process_time()
    assert xmp.source_type(text) is None
    assert time.process_time() - began < 5  # quadratic time would be minutes
