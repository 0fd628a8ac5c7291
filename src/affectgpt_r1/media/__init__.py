"""A media file to eight frames, eight faces and eight two-second windows.

PyAV decodes; OpenCV finds faces. Every clip that can be read at all is read, and what was odd about
it is flagged. A file made to hang or exhaust a decoder is `worker`'s matter.
"""

from affectgpt_r1.media.read import content_hash, read_media
from affectgpt_r1.media.values import STEPS, ClipMedia, MediaFlag

__all__ = ["STEPS", "ClipMedia", "MediaFlag", "content_hash", "read_media"]
