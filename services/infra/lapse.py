"""Ends streams whose token is no longer valid: it expired, or its key or its role was withdrawn."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

CHECK_SECONDS = 5.0  # so a stream outlives its token by no more


@asynccontextmanager
async def while_admitted(
    admit: Callable[[], Awaitable[object]], end: Callable[[Exception], None]
) -> AsyncGenerator[None]:
    """Inside the block the caller is admitted again every CHECK_SECONDS; `end` gets the first refusal."""

    async def check() -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await admit()
            except Exception as refusal:  # noqa: BLE001 - whatever it is, a new call would not be admitted
                end(refusal)
                return

    checking = asyncio.create_task(check(), name="check token")
    try:
        yield
    finally:
        checking.cancel()
