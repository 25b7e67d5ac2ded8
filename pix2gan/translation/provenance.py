"""What an output says about itself: made by a trained algorithm, by which, in which version.

The statement is an XMP packet (ISO 16684-1) in the vocabulary of the IPTC (Photo Metadata Standard
2025.1), which photo tools, search engines and `exiftool` read:
`Iptc4xmpExt:DigitalSourceType` is "trained algorithmic media", `Iptc4xmpExt:AISystemUsed` and
`AISystemVersionUsed` name the model, `xmp:CreatorTool` names pix2gan. It holds no time and no path,
so that a repeated run writes the same bytes.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from pix2gan import __version__
from pix2gan.checkpoints.model_config import ModelConfig

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
{properties}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def xmp_packet(config: ModelConfig) -> bytes:
    """The XMP packet for outputs of the model that `config` describes, in UTF-8."""
    properties = {
        "Iptc4xmpExt:DigitalSourceType": DIGITAL_SOURCE_TYPE,
        "Iptc4xmpExt:AISystemUsed": config.name or str(config.architecture["name"]),
        "Iptc4xmpExt:AISystemVersionUsed": config.version,
        "xmp:CreatorTool": f"pix2gan {__version__}",
    }
    lines = [f"   <{name}>{_text(value)}</{name}>" for name, value in properties.items() if value]
    return _PACKET.format(properties="\n".join(lines)).encode("utf-8")


def _text(value: str) -> str:
    """Escaped, and without the control characters that XML cannot hold."""
    return escape("".join(c for c in value if c.isprintable())[:1000])
