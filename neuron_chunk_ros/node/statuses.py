# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What diagnostics say about each part of the node, and how bad it is."""

from dataclasses import dataclass, field
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus

from neuron_chunk_ros.node.frames import FramesReport
from neuron_chunk_ros.node.tally import Counts

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
ERROR, STALE = DiagnosticStatus.ERROR, DiagnosticStatus.STALE
MB = 1e6


@dataclass(frozen=True)
class Status:
    """A REP-107 level, one line, and the values behind it."""

    level: bytes
    message: str
    values: dict[str, object] = field(default_factory=dict)


def storage(counts: Counts, session, direct_wanted: str) -> Status:
    """ERROR from a failed read until the next good answer; WARN when reads are buffered unasked.

    :param session: tells its back end, whether reads are direct, and what it fell back from.
    :param direct_wanted: the direct_io parameter.
    """
    values = {
        'back end': session.backend,
        'direct I/O': 'yes' if session.direct_io else 'no',
        'notes': '; '.join(session.notes) or 'none',
        'read in all (MB)': f'{counts.bytes_read / MB:.1f}',
        'read for the last answer (MB)': f'{counts.last_bytes_read / MB:.2f}',
        'last read rate (MB/s)': _rate(counts.last_bytes_read / MB, counts.last_read_seconds),
        'last read error': counts.read_error or 'none',
    }
    if counts.read_error:
        return Status(ERROR, f'read error: {counts.read_error}', values)
    if session.direct_io:
        return Status(OK, f'{session.backend}, direct I/O', values)
    if direct_wanted == 'off':
        return Status(OK, f'{session.backend}, buffered reads as asked', values)
    return Status(WARN, f'{session.backend}, buffered reads: the page cache takes memory and '
                        'hides what the storage does', values)


def model(counts: Counts, load: tuple[bool, int], queue_limit: int, about: dict) -> Status:
    """ERROR from an unforeseen failure until the next good answer; WARN when the queue is full.

    :param load: whether a question is being answered, and how many wait.
    :param about: fixed facts, such as the model's name and the selection policy.
    """
    running, waiting = load
    values = {
        **about, 'answered': counts.answered, 'refused': counts.refused, 'failed': counts.failed,
        'waiting': waiting,
        'last answer (s)': f'{counts.last_seconds:.3f}',
        'last answer (tokens/s)': _rate(counts.last_tokens, counts.last_seconds),
        'last error': counts.model_error or 'none',
    }
    if counts.model_error:
        return Status(ERROR, f'last question failed: {counts.model_error}', values)
    if waiting >= queue_limit:
        return Status(WARN, f'overloaded: {waiting} questions wait, more are refused', values)
    return Status(OK, f'answering, {waiting} waiting' if running else 'idle', values)


def frames(report: FramesReport, timeout: float) -> Status:
    """WARN before the first frame or when the last one can't be converted; STALE when old."""
    values = {
        'topic': report.topic, 'publishers': report.publishers, 'received': report.received,
        'rate (1/s)': f'{report.rate:.1f}',
        'age (s)': 'none yet' if report.age is None else f'{report.age:.2f}',
        'newest': report.description or 'none yet',
        'conversion errors': report.conversion_errors,
        'last conversion error': report.last_conversion_error or 'none',
    }
    if report.age is None:
        return Status(WARN, f'no frame has come on {report.topic} '
                            f'({report.publishers} publishers)', values)
    if report.age > timeout:
        return Status(STALE, f'newest frame is {report.age:.1f} s old', values)
    if report.last_conversion_error:
        return Status(WARN, report.last_conversion_error, values)
    return Status(OK, f'{report.rate:.1f} frames/s', values)


def memory(parts: dict[str, float], budget: int) -> Status:
    """WARN when what the model holds exceeds the budget, which covers neither Python nor torch.

    :param parts: MiB by part, as the session tells them; 'total' is what is held.
    :param budget: MiB; 0 for none.
    """
    total = parts['total']
    values = {f'{name} (MiB)': f'{size:.1f}' for name, size in parts.items()}
    values['budget (MiB)'] = budget or 'none'
    values.update(_process_memory())
    if budget and total > budget:
        return Status(WARN, f'{total:.0f} MiB held, {budget} MiB allowed', values)
    allowed = f' of {budget} MiB allowed' if budget else ''
    return Status(OK, f'{total:.0f} MiB held{allowed}', values)


def _process_memory() -> dict[str, str]:
    """Resident size of the whole process, Python and its libraries included."""
    names = {'VmRSS': 'process now (MiB)', 'VmHWM': 'process peak (MiB)'}
    found = {}
    for line in Path('/proc/self/status').read_text().splitlines():
        key, _, rest = line.partition(':')
        if key in names:
            found[names[key]] = f'{int(rest.split()[0]) / 1024:.1f}'
    return found


def _rate(amount: float, seconds: float) -> str:
    return f'{amount / seconds:.1f}' if seconds > 0 else 'none yet'
