"""Pictures as the bytes of files."""

import io

from PIL import Image, PngImagePlugin

from scalespace.data.shapes import shapes


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def drawn_by() -> PngImagePlugin.PngInfo:
    """What a drawn picture has in its metadata."""
    text = PngImagePlugin.PngInfo()
    text.add_text("scalespace", "{}")
    return text


def picture(index: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.fromarray(shapes(index, size))


def flat(colour: object, mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]  # Pillow's type of a colour depends on the mode
