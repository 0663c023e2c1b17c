"""What is recorded of models is told to the audit log as well: source, run, digest, signer, checks."""

from __future__ import annotations

import asyncio

from router.domain import audit
from router.domain.provenance import Approved, History, Pulled, Record, Served
from router.models.cache_ports import Records
from router.ports import AuditLog

_BY_ITSELF = "crossfade"


class AuditedRecords:
    """Implements `Records` over another one."""

    def __init__(self, records: Records, log: AuditLog) -> None:
        self._records = records
        self._log = log

    @property
    def history(self) -> History:
        return self._records.history

    async def append(self, record: Record) -> None:
        await self._records.append(record)
        await asyncio.to_thread(self._log.add, (in_words(record),))


def in_words(record: Record) -> audit.Record:
    match record:
        case Pulled():
            facts = [f"digest {record.digest}", f"source {record.pinned}", *_named("version", record.version)]
            facts += [f"{key} {value}" for key, value in record.lineage]
            return audit.Record(record.at, record.by, "model_pulled", record.ref, ", ".join(facts))
        case Approved():
            facts = [f"digest {record.digest}", *_named("signed by", record.signer)]
            facts += [f"{check}: {found}" for check, found in record.checks]
            return audit.Record(record.at, _BY_ITSELF, "model_approved", _subject(record), ", ".join(facts))
        case Served():
            return audit.Record(
                record.at, _BY_ITSELF, "model_served", _subject(record), f"digest {record.digest} answers"
            )


def _subject(record: Approved | Served) -> str:
    return f"{record.endpoint}/{record.deployment}"


def _named(name: str, value: str) -> list[str]:
    return [f"{name} {value}"] if value else []
