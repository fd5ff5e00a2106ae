"""What an edited file says of itself, in IPTC's terms: composed of a camera's pictures and a generative model's.

The text is an XMP packet. It stands in a `uuid` box of an MP4 file and in an iTXt chunk of a PNG file (XMP
Specification, Part 3).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from fame_accel.media.packages import require

# https://cv.iptc.org/newscodes/digitalsourcetype: pictures of a camera, changed by a generative model
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
# of a picture or video that shows an edit
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}" xmp:CreatorTool="fame-accel"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)
_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # the type of the box that holds XMP


def append_xmp(path: Path, xmp: str) -> None:
    """Append a packet to a complete MP4 file."""
    packet = xmp.encode()
    with path.open("ab") as file:
        file.write(struct.pack(">I4s16s", 24 + len(packet), b"uuid", _BOX) + packet)


def png_xmp() -> Any:
    """`XMP` as the `pnginfo` of Pillow's Image.save."""
    info = require("PIL.PngImagePlugin").PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP)
    return info
