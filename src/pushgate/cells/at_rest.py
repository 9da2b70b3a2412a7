"""The rejections of a gateway of several processes that is stopped: all of its files together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pushgate.cells.shares import cells_of, file_of, left_over
from pushgate.config import Settings
from pushgate.spool import KnownRejection, Spool
from pushgate.spools import open_spool


class AtRest:
    """See `console.rejections.Rejections`. Made by `open`."""

    def __init__(self, spools: Sequence[Spool]) -> None:
        self._spools = spools

    @classmethod
    async def open(cls, settings: Settings) -> AtRest:
        """Every file that is there, the first of which must be. Raises `SpoolError`."""
        path = settings.spool.sqlite_path
        assert path is not None
        cells = cells_of(settings.api)
        others = [cell for cell in range(1, cells) if file_of(path, cell).exists()]
        spools: list[Spool] = []
        try:
            for cell in (0, *others, *left_over(path, cells)):
                table = settings.spool.model_copy(update={"url": f"sqlite:{file_of(path, cell)}"})
                spools.append(await open_spool(settings.model_copy(update={"spool": table})))
        except BaseException:
            await cls(spools).close()
            raise
        return cls(spools)

    async def rejections(
        self, *, app_id: str = "", prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[KnownRejection]:
        """Of the first: all remember the same."""
        return await self._spools[0].rejections(app_id=app_id, prefix=prefix, after=after, limit=limit)

    async def count_rejections(self) -> Mapping[tuple[str, str], int]:
        """Of the first."""
        return await self._spools[0].count_rejections()

    async def forget_rejections(self, lane: str, *, since: float = 0, prefix: str = "") -> int:
        """In all of them."""
        return max([await spool.forget_rejections(lane, since=since, prefix=prefix) for spool in self._spools])

    async def close(self) -> None:
        """Let go of all files."""
        for spool in self._spools:
            await spool.close()
