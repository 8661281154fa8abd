"""What members report of themselves besides being there: catalogs and loads."""

from msgspec.structs import replace

from mpreg_nb.membership.broadcast import Broadcasts
from mpreg_nb.membership.effects import CatalogAnnounced, Effect, LoadChanged, Tell
from mpreg_nb.membership.table import Table
from mpreg_nb.wire.gossip import (
    Announce,
    Load,
    LoadNews,
    MemberRecord,
    MemberState,
    NodeName,
)


class Reports:
    """Follows the versions of all catalogs and the last load of each node."""

    def __init__(self, table: Table, news: Broadcasts) -> None:
        self._table = table
        self._news = news

    def announced(self, item: Announce, sender: NodeName) -> list[Effect]:
        """Take in the next version of a catalog, and pass it on."""
        effects = self.catalog(item.owner, item.generation, item.version, sender, item)
        if effects:
            self._news.put(item)
        return effects

    def catalog(
        self,
        owner: NodeName,
        generation: int,
        version: int,
        sender: NodeName,
        item: Announce | None = None,
    ) -> list[Effect]:
        """Take in how far the catalog of `owner` has come."""
        entry = self._table.get(owner)
        if (
            entry is None
            or entry.record.generation != generation
            or entry.record.state > MemberState.SUSPECT
            or entry.record.catalog_version >= version
        ):
            return []
        record = replace(entry.record, catalog_version=version)
        self._table.replace(entry, record)
        return [told_catalog(record, sender, item)]

    def busy(self, item: LoadNews) -> list[Effect]:
        """Take in a load that was passed on, and pass it on."""
        entry = self._table.get(item.name)
        if (
            entry is None
            or entry.record.generation != item.generation
            or entry.load_serial >= item.serial
        ):
            return []
        entry.load_serial = item.serial
        self._news.put(item)
        return self.load(item.name, item.load)

    def load(self, name: NodeName, load: Load | None) -> list[Effect]:
        """Take in a load that its node told this one, if it did."""
        entry = self._table.get(name)
        if entry is None or load is None:
            return []
        entry.load = load
        return [Tell(LoadChanged(name, load))]


def told_catalog(
    record: MemberRecord, heard_from: NodeName, item: Announce | None = None
) -> Tell:
    """Return the event that the catalog of `record` is at its version."""
    return Tell(
        CatalogAnnounced(
            record.name,
            record.generation,
            record.catalog_version,
            None if item is None else item.delta,
            heard_from,
        )
    )
