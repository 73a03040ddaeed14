"""Where a picture comes from, as an XMP packet: IPTC's Digital Source Type, which search engines and platforms read.

ISO 16684-1 (XMP), IPTC Photo Metadata Standard 2025.1 (Iptc4xmpExt:DigitalSourceType), and IPTC's vocabulary of source
types. Packets of other programs are searched, not parsed: they may be hostile, and XML can be made to grow.
"""

from __future__ import annotations

import html
import re

NAME = "XML:com.adobe.xmp"  # the keyword of the packet's iTXt chunk
OTHER_FORMATS = "xmp"  # what texts of JPEG, WebP and GIF files call it here
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TRAINED = VOCABULARY + "trainedAlgorithmicMedia"  # made by a trained model
EDITED = VOCABULARY + "compositeWithTrainedAlgorithmicMedia"  # something else, of which a model made a part
MIXED = VOCABULARY + "compositeSynthetic"  # several elements, at least one of them made by a model

_EXTENSION = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_QCODE = "digsrctype:"
_LONGEST = 200  # letters of a source type that is worth showing
_SEARCHED = 2**20  # letters of a packet
_PREFIX = re.compile(r"xmlns:([A-Za-z_][\w.-]{0,40})\s{0,9}=\s{0,9}[\"']" + re.escape(_EXTENSION) + r"[\"']")
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="{extension}">
   <Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
   <xmp:CreatorTool>{tool}</xmp:CreatorTool>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def packet(source_type: str, tool: str) -> str:
    """The packet that says one of the terms above, and the program with its version."""
    return _PACKET.format(extension=_EXTENSION, source_type=html.escape(source_type), tool=html.escape(tool))


def source_type(text: str) -> str | None:
    """The Digital Source Type that a packet names, as the address of IPTC's term; None where it names none.

    Read are an element's text, its rdf:resource, and an attribute, under whatever prefix the namespace has.
    """
    text = text[:_SEARCHED]
    for prefix in list(dict.fromkeys(_PREFIX.findall(text)))[:8]:
        name = re.escape(f"{prefix}:DigitalSourceType")
        found = re.search(rf"<{name}(?:\s[^<>]{{0,400}})?>\s{{0,99}}([^<>\s]+)\s{{0,99}}</{name}", text)
        found = found or re.search(rf"<{name}\s[^<>]{{0,400}}?rdf:resource\s?=\s?[\"']([^\"'<>]+)[\"']", text)
        found = found or re.search(rf"\s{name}\s?=\s?[\"']([^\"'<>]+)[\"']", text)
        if found is not None and len(found[1]) <= _LONGEST:
            return _address(html.unescape(found[1]).strip())
    return None


def _address(value: str) -> str:
    """One spelling for a term: its address with http, however it was written."""
    if value.startswith(_QCODE):
        return VOCABULARY + value.removeprefix(_QCODE)
    secure = VOCABULARY.replace("http:", "https:", 1)
    return VOCABULARY + value.removeprefix(secure) if value.startswith(secure) else value
