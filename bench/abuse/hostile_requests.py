"""Requests that nobody should send: damaged images and forms, decompression bombs, paths at random.

Requests of one seed are the same on every machine with the same Pillow.
"""

from __future__ import annotations

import json
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator
from io import BytesIO
from random import Random
from urllib.parse import quote

from PIL import Image

from bench.http_load import http

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "gif": "GIF", "tiff": "TIFF", "bmp": "BMP", "avif": "AVIF"}
"""Subtype of `image/` → Pillow's name of the format."""
CONTENT_TYPES = [
    *(f"image/{name}" for name in FORMATS),
    "application/octet-stream",
    "multipart/form-data",
    "application/json",
]
PATHS = ["/v1/predict"] * 6 + ["/v1/predict/batch", "/v1/explain", "/v1/similar", "/v1/predict?top_k=3"]
BOMB_SIDE_PX = 60_000
"""60,000² pixels are 3.6 gigapixels: 10.8 GB as RGB."""


def pictures(side_px: int = 40) -> list[bytes]:
    """One image file of each format, and some of rarer kinds."""
    smooth = Image.radial_gradient("L").resize((side_px, side_px))
    colours = Image.merge("RGB", (smooth, smooth.rotate(90), smooth.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90° to see it upright
    files = [_file(colours, name) for name in FORMATS.values()]
    files += [
        _file(colours, "JPEG", progressive=True, exif=exif, comment=b"https://example.com/a"),
        _file(colours, "WEBP", lossless=True, exif=exif),
        _file(colours.convert("CMYK"), "JPEG"),
        _file(colours.convert("P"), "PNG", transparency=3),
        _file(smooth.convert("I;16"), "PNG"),
        _file(colours, "TIFF", compression="tiff_lzw"),
        _file(smooth.convert("1"), "TIFF", compression="group4"),
        _file(colours.convert("P"), "GIF", save_all=True, append_images=[smooth.convert("P")]),
    ]
    return files


def mutants(url: str, seed: int, tensor_bytes: int) -> Iterator[bytes]:
    """Requests without end: damaged images, forms, tensors, content types, headers and queries."""
    rng = Random(seed)
    files = pictures()
    while True:
        body = rng.choice((_damaged_image, _damaged_image, _tensor))(rng, files, tensor_bytes)
        content_type = rng.choice(CONTENT_TYPES)
        if content_type.startswith("multipart"):
            body, content_type = _damaged_form(rng, body)
        elif content_type.endswith("json"):
            body = _damaged_json(rng, body)
        elif rng.random() < 0.1:
            content_type = _text(rng)
        path = rng.choice(PATHS)
        if rng.random() < 0.1:
            path = f"{path.partition('?')[0]}?{quote(_text(rng))}={quote(_text(rng))}&{_text(rng, 'abc=&%+;1')}"
        yield http(url, path, body, content_type, headers=_headers(rng))


def bombs() -> dict[str, tuple[str, bytes]]:
    """Small files that ask for much memory or time: name → (content type, file)."""
    side = BOMB_SIDE_PX
    megabyte = zlib.compress(bytes(1_000_000), 9)
    text = b"k\0\0" + megabyte  # zTXt: keyword, NUL, method 0 (zlib), data
    progressive = _file(Image.new("L", (1024, 1024)), "JPEG", progressive=True)
    # From the last SOS (FF DA) to before EOI (FF D9). A decoder goes over the whole image for each scan, however short.
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    return {
        "PNG of 60,000 x 60,000": ("image/png", _png(side, side)),
        "PNG of 60,000 x 60,000, whole": ("image/png", _png(side, side, pixels=zlib.compress(bytes(40 * 10**6), 9))),
        "PNG, zTXt of 100 MB": ("image/png", _png(28, 28, (b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8), 9)))),
        "PNG, 70 zTXt of 1 MB": ("image/png", _png(28, 28, *[(b"zTXt", text)] * 70)),
        "PNG, iTXt of 50 MB": ("image/png", _png(28, 28, (b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(50 * 10**6))))),
        "PNG, ICC profile of 50 MB": (
            "image/png",
            _png(28, 28, (b"iCCP", b"k\0\0" + zlib.compress(bytes(50 * 10**6)))),
        ),
        "GIF of 65,535 x 65,535": (
            "image/gif",
            b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + _GIF_FRAME,
        ),
        "TIFF of 60,000 x 60,000": ("image/tiff", _tiff(side)),
        "WebP of 16,383 x 16,383": ("image/webp", _webp(16_383)),
        "JPEG of 65,500 x 65,500": ("image/jpeg", _with_jpeg_size(_file(Image.new("L", (8, 8)), "JPEG"), 65_500)),
        "JPEG of 4,000 scans": ("image/jpeg", progressive[:-2] + scan * 4_000 + b"\xff\xd9"),
        "BMP of 60,000 x 60,000": ("image/bmp", _bmp(side)),
        "PPM header of 1 MB": ("image/png", b"P6" + b" " * 1_000_000),
    }


def tiff_floods() -> Iterator[bytes]:
    """Small TIFF files of which libtiff writes a line for each row or strip."""
    picture = Image.effect_noise((400, 400), 90)
    for compression, mode in (("tiff_lzw", "L"), ("tiff_adobe_deflate", "L"), ("group3", "1"), ("group4", "1")):
        file = bytearray(_file(picture.convert(mode), "TIFF", compression=compression))
        for place in range(200, len(file) - 600, 7):  # the directory stands at the end
            file[place] ^= 0x55
        yield bytes(file)
    # One column of CCITT rows, each of which is damaged: 24 million lines.
    yield _file(Image.new("1", (1, 24_000_000)), "TIFF", compression="group4")


def random_paths(seed: int) -> Iterator[str]:
    """Paths without end, near our routes and far from them."""
    rng = Random(seed)
    roots = ["", "/v1", "/v1/predict", "/v1/receipts", "/static", "/docs", "/metrics", "/..", "/%2e%2e"]
    while True:
        depth = rng.randint(1, 4)
        yield rng.choice(roots) + "".join("/" + quote(_text(rng), safe="%") for _ in range(depth))


def _damaged_image(rng: Random, files: list[bytes], tensor_bytes: int) -> bytes:
    data = bytearray(rng.choice(files))
    for _ in range(rng.randint(1, 3)):
        start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        match rng.randrange(7):
            case 0:  # bits flipped
                for _ in range(rng.choice((1, 1, 2, 16))):
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 1:  # cut off
                del data[rng.randrange(1, len(data) + 1) :]
            case 2:  # halves of a run swapped
                middle = (start + end) // 2
                data[start:end] = data[middle:end] + data[start:middle]
            case 3:  # a run of zeros
                data[start:end] = bytes(end - start)
            case 4:  # a run twice
                data[start:start] = data[start:end]
            case 5:  # a run of another file
                data[start:end] = rng.choice(files)[start:end]
            case 6:  # a field at a limit of 32 bits, as lengths and sizes are
                data[start : start + 4] = rng.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\1\0\0\0")
                )
        data = data or bytearray(b"\0")
    return bytes(data)


def _tensor(rng: Random, files: list[bytes], tensor_bytes: int) -> bytes:
    size = rng.choice((0, 1, tensor_bytes - 1, tensor_bytes, tensor_bytes + 1, 2 * tensor_bytes, 3 * tensor_bytes))
    return rng.randbytes(max(0, size))


def _damaged_form(rng: Random, data: bytes) -> tuple[bytes, str]:
    boundary = rng.choice(("abc", "a" * 70, "a b", '"quoted"', "x" * 300))
    head = rng.choice(
        (
            'Content-Disposition: form-data; name="image"; filename="a.png"',
            f'Content-Disposition: form-data; name="{_text(rng)}"; filename="{_text(rng)}"',
            "Content-Disposition: form-data; filename*=utf-8''%ff%00; filename*0*=x''a",
            "Content-Disposition: form-data",
            "Content-Transfer-Encoding: base64",
            f"{_text(rng)}: {_text(rng)}",
            "",
        )
    )
    part = f"--{boundary}\r\n{head}\r\nContent-Type: image/png\r\n\r\n".encode("latin-1", "replace") + data + b"\r\n"
    body = bytearray(part * rng.randint(1, 12) + f"--{boundary}--\r\n".encode())
    match rng.randrange(5):  # 4: the form stays whole, its declaration may not
        case 0:
            del body[rng.randrange(len(body)) :]
        case 1:
            for _ in range(8):
                body[rng.randrange(min(len(body), 200))] = rng.randrange(256)
        case 2:
            body = body.replace(b"\r\n", rng.choice((b"\n", b"\r", b"\r\n\r\n")))
        case 3:
            body += rng.randbytes(50)
    declared = rng.choice((f"; boundary={boundary}", f"; boundary={boundary}", "", "; boundary=", "; boundary=other"))
    return bytes(body), f"multipart/form-data{declared}"


def _damaged_json(rng: Random, data: bytes) -> bytes:
    text = rng.choice((b64encode(data).decode(), f"data:image/png;base64,{b64encode(data).decode()}", _text(rng)))
    value = rng.choice((text, [text] * rng.randint(0, 12), rng.randrange(10), None, {"b64": text}, [[]] * 5000))
    body = bytearray(json.dumps({rng.choice(("image", "images", "instances", _text(rng))): value}).encode())
    if rng.random() < 0.4:
        body[rng.randrange(len(body))] = rng.randrange(256)
    return bytes(body[: rng.randrange(len(body)) if rng.random() < 0.2 else len(body)])


def _headers(rng: Random) -> str:
    if rng.random() < 0.7:
        return ""
    names = (
        "X-Request-ID",
        "Accept",
        "Accept-Encoding",
        "Authorization",
        "X-API-Key",
        "Range",
        "If-None-Match",
        "Cookie",
    )
    names += ("traceparent", "Origin", "X-Forwarded-For", "Content-Encoding", "Content-Disposition", "X-" + "y" * 500)
    chosen = rng.sample(names, rng.randint(1, 6))
    return "".join(f"{name}: {_text(rng)}\r\n" for name in chosen)


def _text(rng: Random, letters: str = "abcXYZ012-_.:;,=\"'%/\\<>{}[]()\t \xe9\xff\x80") -> str:
    return "".join(rng.choice(letters) for _ in range(rng.choice((1, 3, 8, 40, 400))))


def _file(image: Image.Image, format: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def _png(width: int, height: int, *chunks: tuple[bytes, bytes], pixels: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # 1 bit a pixel, grey: the largest size a byte buys
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


# Image descriptor of the whole canvas; then LZW data: code size 2, a block of 2 bytes (clear, a pixel, end), no more.
_GIF_FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x02\x44\x01\x00;"


def _tiff(side_px: int) -> bytes:
    fields = {
        256: side_px,  # ImageWidth
        257: side_px,  # ImageLength
        258: 8,  # BitsPerSample
        259: 1,  # Compression: none
        262: 1,  # PhotometricInterpretation: 0 is black
        273: 8,  # StripOffsets
        277: 1,  # SamplesPerPixel
        278: side_px,  # RowsPerStrip
        279: 1,  # StripByteCounts
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())  # 4: LONG, one value
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4)


def _webp(side_px: int) -> bytes:
    """An animation, whose decoder allocates a canvas of the stated size."""
    frame = bytearray(_file(Image.new("RGB", (16, 16)), "WEBP", lossless=True)[12:])
    size = (side_px - 1) | (side_px - 1) << 14  # VP8L: behind its signature byte 14 bits a side, less 1
    struct.pack_into("<I", frame, 9, struct.unpack_from("<I", frame, 9)[0] & ~0xFFFFFFF | size)
    sides = struct.pack("<I", side_px - 1)[:3] * 2
    animation = b"ANIM" + struct.pack("<I", 6) + bytes(6)
    animation += b"ANMF" + struct.pack("<I", 16 + len(frame)) + bytes(6) + sides + bytes(4) + frame
    content = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sides + animation
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _with_jpeg_size(data: bytes, side_px: int) -> bytes:
    start = data.index(b"\xff\xc0") + 5  # SOF0: marker, length (2), precision (1), then height and width
    return data[:start] + struct.pack(">HH", side_px, side_px) + data[start + 4 :]


def _bmp(side_px: int) -> bytes:
    # BITMAPINFOHEADER of 40 bytes: one plane, 24 bits, no compression; before it the file header of 14.
    head = struct.pack("<IiiHHIIiiII", 40, side_px, side_px, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


def costly_webp() -> bytes:
    """A small file of 24.9 megapixels, whose decoder takes 400 MB."""
    return _file(Image.linear_gradient("L").resize((4_990, 4_990)), "WEBP", lossless=True)


def large_png(side_px: int) -> bytes:
    """A small file that takes long to decode: gray stripes."""
    return _file(Image.linear_gradient("L").resize((side_px, side_px), Image.Resampling.NEAREST), "PNG")
