# What the extension that _build.py makes looks like to a type checker. cffi pointers are Any.
from typing import Any

_Pointer = Any

class _FFI:
    NULL: _Pointer
    def new(self, cdecl: str, init: Any = ...) -> Any: ...
    def string(self, cdata: _Pointer, maxlen: int = ...) -> bytes: ...
    def unpack(self, cdata: _Pointer, length: int) -> Any: ...

class _Lib:
    PSPAWN_AUTO: int
    PSPAWN_EXEC: int
    PSPAWN_PREINIT: int
    PSPAWN_MAIN: int
    PSPAWN_WARM: int
    PSPAWN_APP: int
    PSPAWN_STEP_NONE: int
    PSPAWN_STEP_CONTEXT: int
    PSPAWN_STEP_FDS: int
    PSPAWN_GATED: int
    def pspawn_context_open(self, ctx: _Pointer, attr: _Pointer, reason: _Pointer, reason_size: int) -> int: ...
    def pspawn_context_info(self, ctx: _Pointer, info: _Pointer) -> int: ...
    def pspawn_context_destroy(self, ctx: _Pointer) -> None: ...
    def pspawn_vector(self, tasks: _Pointer, ntasks: int, flags: int) -> int: ...
    def pspawn_fork_point_name(self, fork_point: int) -> _Pointer: ...
    def pspawn_step_name(self, step: int) -> _Pointer: ...
    def pspawn_place(
        self, domains: _Pointer, ndomains: int, masks: _Pointer, mask_bytes: int, nranks: int, domain_of: _Pointer
    ) -> int: ...

ffi: _FFI
lib: _Lib
