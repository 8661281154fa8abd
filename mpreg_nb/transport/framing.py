"""Bytes of a socket to WebSocket frames and back, for the frames that we send.

Nearly every frame here is one whole binary message. Those are cut out and put
together in this file, in place and with as few copies as can be: websockets'
own parser makes several objects and copies of each frame, which costs more
than all else that a small message needs. Whatever is not such a frame (text,
pings, closing, fragments, errors) goes to websockets' protocol object as it
came, so that the rules of the protocol stay its business.

Frame layout: RFC 6455, section 5.2. On links that need it (see `handshake`), the last
16 bytes of each payload are its MAC.
"""

import hmac
import os
from hashlib import blake2b

from websockets.protocol import Protocol

from mpreg_nb.protocol.codec import Buffer

try:
    from websockets.speedups import apply_mask
except ImportError:  # a build of websockets without its C part
    from websockets.utils import apply_mask


BINARY = 0x82  # FIN, opcode 2
PING, PONG = 0x89, 0x8A  # FIN, opcodes 9 and 10
MASKED = 0x80  # bit of the second byte
SHORT = 125  # longest payload whose length is in the second byte
SIXTEEN_BITS, SIXTY_FOUR_BITS = 126, 127  # where the length is, if longer

unmasked = apply_mask  # masking twice with one key undoes it

SCRATCH_BYTES = 1 << 20
KEYS_AT_ONCE = 256


class Scratch:
    """Where the links of one event loop receive, one after the other.

    What one read brought is used up before the next, so that one buffer serves
    all links of a loop. Not to be shared between loops: uvloop reads into it
    while it does not hold the interpreter's lock.
    """

    __slots__ = ("buffer", "view")

    def __init__(self, size_bytes: int = SCRATCH_BYTES) -> None:
        self.buffer = bytearray(size_bytes)
        self.view = memoryview(self.buffer)


MAC_BYTES = 16


class FrameMac:
    """The MACs of one direction of a link, one frame after the other.

    Each covers the number of its frame, so that a frame that was changed, left out,
    repeated or moved does not fit, nor do those after it. BLAKE2b, RFC 7693, keyed.
    """

    __slots__ = ("_frames", "_keyed")

    def __init__(self, key: bytes) -> None:
        """key: for this link and direction alone, 32 bytes."""
        self._keyed = blake2b(key=key, digest_size=MAC_BYTES)
        self._frames = 0

    def next(self, *pieces: Buffer) -> bytes:
        """Return the MAC of the next frame, whose payload is `pieces`."""
        digest = self._keyed.copy()
        digest.update(self._frames.to_bytes(8, "big"))
        self._frames += 1
        for piece in pieces:
            digest.update(piece)
        return digest.digest()

    def checked(self, payload: Buffer) -> Buffer | None:
        """Return the next frame's payload without its MAC; None: it is not genuine."""
        content = memoryview(payload)[:-MAC_BYTES]
        offered = memoryview(payload)[-MAC_BYTES:]
        return content if hmac.compare_digest(self.next(content), offered) else None


class FrameReader:
    """Cuts what was received into the payloads of binary messages.

    `protocol` gets every byte that belongs to anything else. `noticed` says
    that it got some since the caller last set that to False.
    """

    __slots__ = (
        "_filled",
        "_frame",
        "_mask_bit",
        "_max_bytes",
        "_protocol",
        "_scratch",
        "_start",
        "noticed",
        "passes_all",
    )

    def __init__(
        self, protocol: Protocol, scratch: Scratch, *, masked: bool, max_bytes: int
    ) -> None:
        self._protocol = protocol
        self._scratch = scratch
        self._mask_bit = MASKED if masked else 0
        self._max_bytes = max_bytes
        self._start = b""  # of a frame whose length is not yet known
        self._frame: bytearray | None = None  # a frame that has come in part,
        self._filled = 0  # and how much of it
        self.noticed = False
        self.passes_all = False

    def space(self) -> memoryview:
        """Return where the next bytes are to be written; never empty."""
        if self._frame is not None:
            return memoryview(self._frame)[self._filled :]
        if self._start:
            self._scratch.buffer[: len(self._start)] = self._start
            return self._scratch.view[len(self._start) :]
        return self._scratch.view  # asyncio's TLS takes slices: of a copy, else

    def put(self, data: bytes) -> int:
        """Copy as much of `data` as fits to `space`; return how much that is."""
        space = self.space()
        size = min(len(space), len(data))
        space[:size] = data[:size]
        return size

    def received(self, count: int) -> list[Buffer]:
        """Return the payloads that are complete with `count` bytes in `space`.

        They may be views of the scratch, valid until the next read.
        """
        if self._frame is None:
            buffer, view = self._scratch.buffer, self._scratch.view
            end = len(self._start) + count
            self._start = b""
        else:
            self._filled += count
            end = len(self._frame)
            if self._filled < end:
                return []
            buffer, self._frame = self._frame, None
            view = memoryview(buffer)
        payloads: list[Buffer] = []
        mask_bit = self._mask_bit
        position = 0
        while end - position >= 2 and not self.passes_all:
            kind = buffer[position]
            size = buffer[position + 1] ^ mask_bit  # over 127 if the bit is wrong
            body = position + 2
            if size > SHORT:
                body += {SIXTEEN_BITS: 2, SIXTY_FOUR_BITS: 8}.get(size, 0)
                if body > end:
                    break
                if body > position + 2:
                    size = int.from_bytes(buffer[position + 2 : body], "big")
                    wrong = size > self._max_bytes or kind != BINARY
                else:
                    wrong = True
            else:
                wrong = kind not in (BINARY, PING, PONG)
            if wrong:  # for a frame of ours; websockets knows what it is
                self.passes_all = True
                break
            if mask_bit:
                body += 4
            stop = body + size
            if stop > end:
                self._frame = bytearray(stop - position)
                self._filled = end - position
                # Through a view: a bytearray would first copy what it is given.
                memoryview(self._frame)[: self._filled] = view[position:end]
                return payloads
            if kind != BINARY:
                self._pass_on(view[position:stop])
            elif mask_bit:
                payloads.append(unmasked(view[body:stop], buffer[body - 4 : body]))
            else:
                payloads.append(view[body:stop])
            position = stop
        if position < end:
            if self.passes_all:
                self._pass_on(view[position:end])
            else:
                self._start = bytes(view[position:end])
        return payloads

    def pass_all(self) -> None:
        """Give the protocol all that comes from here on, and what was kept."""
        self.passes_all = True
        if self._frame is not None:
            self._pass_on(memoryview(self._frame)[: self._filled])
            self._frame = None
        elif self._start:
            self._pass_on(memoryview(self._start))
            self._start = b""

    def _pass_on(self, data: memoryview) -> None:
        self._protocol.receive_data(bytes(data))
        self.noticed = True


class FrameWriter:
    """Puts payloads into binary frames, masked if this side dialled."""

    __slots__ = ("_heads", "_keys", "_mask_bit", "_masked")

    def __init__(self, *, masked: bool) -> None:
        self._masked = masked
        self._mask_bit = MASKED if masked else 0
        self._heads = _HEADS[masked]
        self._keys: list[bytes] = []

    def frame(self, payload: bytes) -> bytes:
        """Return `payload` as one frame."""
        size = len(payload)
        head = self._heads[size] if size <= SHORT else self._long_head(size)
        if not self._masked:
            return head + payload
        key = self._key()
        return head + key + apply_mask(payload, key)

    def frame_of(self, pieces: list[Buffer]) -> list[Buffer]:
        """Return one frame of `pieces` one after the other.

        Unmasked pieces are not copied.
        """
        size = sum(map(len, pieces))
        head = self._heads[size] if size <= SHORT else self._long_head(size)
        if not self._masked:
            return [head, *pieces]
        key = self._key()
        frame: list[Buffer] = [head + key]
        for piece in pieces:
            frame.append(apply_mask(piece, key))
            turn = len(piece) % 4
            key = key[turn:] + key[:turn]
        return frame

    def _long_head(self, size: int) -> bytes:
        if size < 1 << 16:
            return bytes((BINARY, SIXTEEN_BITS | self._mask_bit)) + size.to_bytes(
                2, "big"
            )
        return bytes((BINARY, SIXTY_FOUR_BITS | self._mask_bit)) + size.to_bytes(
            8, "big"
        )

    def _key(self) -> bytes:
        # A key must come from strong randomness (section 5.3); one call to the
        # system for many of them.
        if not self._keys:
            pool = os.urandom(4 * KEYS_AT_ONCE)
            self._keys = [pool[at : at + 4] for at in range(0, len(pool), 4)]
        return self._keys.pop()


_HEADS = tuple(
    tuple(bytes((BINARY, mask_bit | size)) for size in range(SHORT + 1))
    for mask_bit in (0, MASKED)
)
