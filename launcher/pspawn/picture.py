"""Pictures of nodes: NUMA domains with their CPUs and, if there are any, their ranks; as text and as SVG.

One module for ``pspawn topo``, ``plan`` and ``report``, which differ in what they put in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from pspawn.report import Report, printable, ranges

if TYPE_CHECKING:
    from pspawn.machine import Machine
    from pspawn.plan import Plan
    from pspawn.report import Context


@dataclass(frozen=True)
class Rank:
    """A rank in its domain."""

    rank: int
    cpus: frozenset[int]
    forked: bool = True


@dataclass(frozen=True)
class Domain:
    """A box."""

    numa_node: int
    cores: tuple[frozenset[int], ...]
    """CPUs by core; none for memory alone."""
    memory: int | None = None
    """Bytes; None if unknown."""
    notes: tuple[str, ...] = ()
    ranks: tuple[Rank, ...] = ()

    @property
    def cpus(self) -> frozenset[int]:
        return frozenset[int]().union(*self.cores)


@dataclass(frozen=True)
class Node:
    """A picture."""

    title: str
    about: str
    domains: tuple[Domain, ...]
    groups: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Packages, if there are several: a heading, and indexes of the domains below it."""
    notes: tuple[str, ...] = ()
    """What stands below the boxes."""
    usable: frozenset[int] = frozenset()
    """CPUs of a rank that nobody has bound."""
    with_ranks: bool = False
    distances: tuple[tuple[int, ...], ...] = ()


# From what there is to a picture


def of_machine(machine: Machine) -> Node:
    """A machine as it is."""
    return _node(machine, f"{machine.name}", _size(machine))


def of_plan(plan: Plan) -> Node:
    """A machine with the ranks of a plan."""
    members: list[list[Rank]] = [[] for _ in plan.machine.domains]
    for number, (index, cpus) in enumerate(zip(plan.domain_of, plan.cpus)):
        members[index].append(Rank(number, cpus))
    counts = sorted({len(ranks) for ranks in members if ranks})
    about = f"{_count(len(plan.cpus), 'rank')} from {_count(plan.proxies, 'proxy', 'proxies')}"
    if plan.proxies > 1:
        about += f", {counts[0]} each" if len(counts) == 1 else f", {counts[0]} to {counts[-1]} each"
    return _node(plan.machine, plan.machine.name, f"{about}; {_size(plan.machine)}", members)


MOST_CPUS = 1 << 22
"""In all lists of CPUs of a report that differ: what 4,096 ranks have on 1,024 CPUs if no two have the same."""


class _Cpus:
    """Lists of CPUs of a report, each read once, and all together at most MOST_CPUS: a short text may name 8,192."""

    def __init__(self) -> None:
        self._read: dict[str, frozenset[int]] = {}
        self._left = MOST_CPUS

    def read(self, text: str) -> frozenset[int]:
        from pspawn.engine.tables import parse_cpus

        cpus = self._read.get(text)
        if cpus is None:
            cpus = self._read[text] = frozenset(parse_cpus(text))
            self._left -= len(cpus)
            if self._left < 0:
                raise ValueError(f"its lists of CPUs name more than {MOST_CPUS} in all: too many to show")
        return cpus


def of_report(report: Report) -> list[Node]:
    """What a launch did, on each of its nodes. ValueError where a list of CPUs is none, or there are too many."""
    pictures = []
    cpus = _Cpus()
    for node in report.nodes:
        rows = []
        ranks_of: dict[int | None, list[Rank]] = {domain.numa_node: [] for domain in node.domains}
        proxies_of: dict[int, list[Context]] = {}
        without: dict[str, list[int]] = {}
        for rank in node.ranks:
            if rank.numa_node in ranks_of:
                forked = rank.launched_by == "fork"
                ranks_of[rank.numa_node].append(Rank(rank.rank, cpus.read(rank.cpus), forked))
            else:
                without.setdefault(rank.reason or "", []).append(rank.rank)
        for context in node.contexts:
            if context.requests:
                proxies_of.setdefault(context.numa_node, []).append(context)
        for domain in node.domains:
            ranks = ranks_of.pop(domain.numa_node, [])  # one that is named twice has them once
            proxies = proxies_of.get(domain.numa_node, [])
            notes = [f"proxy {proxy.pid}, {printable(proxy.fork_point)}" for proxy in proxies[:3]]
            if len(proxies) > 3:
                notes.append(f"and {len(proxies) - 3} more proxies")
            cores = tuple(frozenset({cpu}) for cpu in sorted(cpus.read(domain.cpus)))
            rows.append(Domain(domain.numa_node, cores, None, tuple(notes), tuple(ranks)))
        pictures.append(
            Node(
                printable(node.host),
                f"{_count(len(node.ranks), 'rank')}, {_count(len(node.domains), 'NUMA domain')}",
                tuple(rows),
                notes=tuple(
                    _ranks_words(without[reason]) + (f": exec'd, {printable(reason)}" if reason else ": exec'd")
                    for reason in sorted(without)
                ),
                usable=frozenset[int]().union(*(row.cpus for row in rows)),
                with_ranks=True,
            )
        )
    return pictures


def _node(machine: Machine, title: str, about: str, members: Sequence[Sequence[Rank]] | None = None) -> Node:
    rows = []
    for index, domain in enumerate(machine.domains):
        notes = []
        if not domain.cpus:
            beside = machine.beside.get(domain.numa_node, ())
            near = f", near numa {ranges(beside)}" if beside and len(beside) < len(machine.domains) else ""
            notes.append(f"memory without CPUs{near}")
        cores = tuple(core & frozenset(domain.cpus) for core in machine.cores if core & frozenset(domain.cpus))
        ranks = tuple(members[index]) if members is not None else ()
        rows.append(Domain(domain.numa_node, cores, machine.memory.get(domain.numa_node), tuple(notes), ranks))
    distances = tuple(tuple(domain.distances or ()) for domain in machine.domains if members is None)
    return Node(
        printable(title), about, tuple(rows), _packages(machine), usable=machine.usable,
        with_ranks=members is not None, distances=distances if all(distances) and len(distances) > 1 else (),
    )  # fmt: skip


def _packages(machine: Machine) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Domains by package; none where that says nothing, or a domain is in several."""
    groups: list[tuple[str, list[int]]] = [(f"package {n}", []) for n in range(len(machine.packages))]
    loose: list[int] = []
    if len(groups) < 2:
        return ()
    row_of = {domain.numa_node: row for row, domain in enumerate(machine.domains)}
    for row, domain in enumerate(machine.domains):
        near = machine.beside.get(domain.numa_node, ())
        cpus = set(domain.cpus).union(*(machine.domains[row_of[node]].cpus for node in near))
        homes = [n for n, package in enumerate(machine.packages) if package & cpus]
        if len(homes) == 1:
            groups[homes[0]][1].append(row)
        elif domain.cpus:
            return ()
        else:
            loose.append(row)
    found = [*groups, ("beside all packages", loose)]
    if all(len(rows) < 2 for _, rows in groups):
        return ()
    return tuple((heading, tuple(rows)) for heading, rows in found if rows)


def _size(machine: Machine) -> str:
    words = [
        _count(len(machine.domains), "NUMA domain"),
        _count(len(machine.cores), "core"),
        _count(sum(map(len, machine.cores)), "CPU"),
    ]
    memory = sum(machine.memory.values())
    return ", ".join([*words, *([_bytes(memory)] if memory else [])])


def _bytes(number: int) -> str:
    size, units = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        del units[0]
    return f"{size:.0f} {units[0]}" if size >= 10 or size == int(size) else f"{size:.1f} {units[0]}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _ranks_words(ranks: Iterable[int]) -> str:
    numbers = list(ranks)
    return f"rank{'' if len(numbers) == 1 else 's'} {ranges(numbers)}"


# What is in a box


class Cell(NamedTuple):
    """Some CPUs of one core, and who is bound there."""

    cpus: str
    ranks: tuple[int, ...]
    core: int
    forked: bool


class Content(NamedTuple):
    """Of a box."""

    cells: tuple[Cell, ...]
    lines: tuple[str, ...]
    """What the cells don't tell."""
    telling: bool
    """Whether the cells tell something beyond which CPUs there are; text leaves them out if not."""

    @property
    def shown(self) -> tuple[Cell, ...]:
        return self.cells if self.telling else ()


MOST_IN_CELL = 2
"""Ranks that are told one by one; above, CPUs are told with their ranks in lines."""
MOST_LINES = 12


def _content(domain: Domain, node: Node) -> Content:
    every = domain.cpus
    free: list[Rank] = []
    inside: list[Rank] = []
    bound: list[Rank] = []
    alike: dict[frozenset[int], list[Rank]] = {}
    for rank in domain.ranks:
        alike.setdefault(rank.cpus, []).append(rank)
    bound_to: list[frozenset[int]] = []
    for mask, ranks in alike.items():
        if mask >= (node.usable or every):
            free += ranks
        elif mask == every:
            inside += ranks
        else:
            bound += ranks
            bound_to.append(mask)
    lines = [
        *_lines_of(free, "on any CPU" if len(node.domains) > 1 and node.usable - every else "on any CPU here"),
        *_lines_of(inside, "on any CPU of the domain"),
    ]
    cells = _cells(domain, bound)
    outside = any(mask - every for mask in bound_to)
    crowded = outside or any(len(cell.ranks) > MOST_IN_CELL for cell in cells)
    if crowded:
        for mask in sorted(bound_to, key=sorted)[:MOST_LINES]:
            lines += _lines_of(alike[mask], f"on CPU {ranges(mask) or '?'}")
        if len(bound_to) > MOST_LINES:
            lines.append(f"and {len(bound_to) - MOST_LINES} more sets of CPUs")
    if node.with_ranks and every and not domain.ranks:
        lines.append("no rank")
    return Content(cells, tuple(lines), not crowded and (bool(bound) or not node.with_ranks))


def _lines_of(ranks: Sequence[Rank], where: str) -> Iterator[str]:
    for forked in (True, False):
        some = [rank.rank for rank in ranks if rank.forked is forked]
        if some:
            yield f"{_ranks_words(some)}{'' if forked else ' (exec)'} {where}"


def _cells(domain: Domain, bound: Sequence[Rank]) -> tuple[Cell, ...]:
    """A cell for each core, or for each CPU where a rank has a part of a core.

    Of ranks with the same CPUs no more than a cell that is too full needs.
    """
    on: dict[int, list[Rank]] = {}
    alike: dict[frozenset[int], int] = {}
    for rank in bound:
        alike[rank.cpus] = alike.get(rank.cpus, 0) + 1
        if alike[rank.cpus] > MOST_IN_CELL + 1:
            continue
        for cpu in rank.cpus:
            on.setdefault(cpu, []).append(rank)
    whole = all(len({tuple(r.rank for r in on.get(cpu, ())) for cpu in core}) == 1 for core in domain.cores)
    cells = []
    for number, core in enumerate(domain.cores):
        for cpus in [sorted(core)] if whole else [[cpu] for cpu in sorted(core)]:
            ranks = on.get(cpus[0], [])
            label = ",".join(map(str, cpus)) if len(cpus) <= 4 else ranges(cpus)
            cells.append(Cell(label, tuple(r.rank for r in ranks), number, all(r.forked for r in ranks)))
    return tuple(cells)


def _per_row(count: int, fit: int) -> int:
    """Cells of a row: as many as fit, but rows of a power of two, and as square as half of a page."""
    row = 1  # of no cells too
    while row * 2 <= min(fit, count):
        row *= 2
    return count if 0 < count <= min(fit, 12) else row


def _columns(boxes: int, fit: int) -> int:
    """Boxes beside each other: as many as fit, or of a few boxes less if then no place is left over."""
    most = max(1, min(4, boxes, fit))
    if boxes > 12:
        return most
    return next((n for n in range(most, most // 2, -1) if boxes % n == 0), most)


# Text

WIDTH = 80


def text(nodes: Sequence[Node], width: int = WIDTH, *, ascii_only: bool = False) -> str:
    """The pictures, one below the other, no line longer than ``width`` columns (40 at least)."""
    lines: list[str] = []
    for node in nodes:
        lines += ["", *_node_text(node, max(40, width))] if lines else _node_text(node, max(40, width))
    drawn = "\n".join(lines)
    return drawn.translate(_ASCII) if ascii_only else drawn


_ASCII = str.maketrans({"┌": "+", "┐": "+", "└": "+", "┘": "+", "─": "-", "│": "|"})


class Layout(NamedTuple):
    """Widths in columns that all boxes of a node have in common."""

    outer: int
    """Of a box with its borders."""
    cell: int
    """Of a cell with the blank before it."""
    fit: int
    """Cells of a row, at most."""


LABEL = len("rank")
NARROW = 36
"""Longer lines in a box are broken, if nothing else makes it wider."""


def _node_text(node: Node, width: int) -> Iterator[str]:
    yield from wrapped(node.title, width)
    yield from wrapped(node.about, width)
    contents = [_content(domain, node) for domain in node.domains]
    layout = _layout(node, contents, width)
    for heading, rows in node.groups or (("", tuple(range(len(node.domains)))),):
        if heading:
            yield ""
            yield heading
        yield from _boxes([_box(node.domains[row], contents[row], layout) for row in rows], layout.outer, width)
    for note in node.notes:
        yield from wrapped(note, width)
    yield from _distances(node, width)


def _layout(node: Node, contents: Sequence[Content], width: int) -> Layout:
    cells = [cell for content in contents for cell in content.shown]
    cell = 1 + max((max(len(cell.cpus), len(_of_cell(cell))) for cell in cells), default=0)
    fit = max(1, min(16, (width - 4 - LABEL) // cell))
    wanted = 0
    for domain, content in zip(node.domains, contents):
        grid = LABEL + _per_row(len(content.shown), fit) * cell if content.shown else 0
        head = len(f"numa {domain.numa_node}") + len(_memory(domain)) + 5
        lines = max((min(len(line), NARROW) for line in _lines(domain, content)), default=0)
        wanted = max(wanted, grid, head, lines)
    return Layout(min(wanted + 4, width), cell, fit)


def _boxes(boxes: Sequence[list[str]], outer: int, width: int) -> Iterator[str]:
    columns = _columns(len(boxes), (width + 1) // (outer + 1))
    for at in range(0, len(boxes), columns):
        some = boxes[at : at + columns]
        height = max(map(len, some))
        blank = "│" + " " * (outer - 2) + "│"
        filled = [[*box[:-1], *[blank] * (height - len(box)), box[-1]] for box in some]
        yield from (" ".join(parts) for parts in zip(*filled))


def _of_cell(cell: Cell) -> str:
    return ",".join(map(str, cell.ranks)) or "-"


def _memory(domain: Domain) -> str:
    if domain.memory is None:
        return ""
    return _bytes(domain.memory) if domain.memory else "no memory"


def _lines(domain: Domain, content: Content) -> list[str]:
    """What text says of a domain besides its cells."""
    cpus = [f"CPU {ranges(domain.cpus)}"] if domain.cores and not content.telling else []
    return [*cpus, *domain.notes, *content.lines]


def _box(domain: Domain, content: Content, layout: Layout) -> list[str]:
    inner = layout.outer - 4
    left, right = f"─ numa {domain.numa_node} ", f" {_memory(domain)} ─" if _memory(domain) else "─"
    body = [piece for line in _lines(domain, content) for piece in wrapped(line, inner)]
    return [
        "┌" + left + "─" * (layout.outer - 2 - len(left) - len(right)) + right + "┐",
        *(f"│ {line:<{inner}} │" for line in [*_rows(content, layout), *body] or [""]),
        "└" + "─" * (layout.outer - 2) + "┘",
    ]


def _rows(content: Content, layout: Layout) -> Iterator[str]:
    width = layout.cell
    row = _per_row(len(content.shown), layout.fit)
    ranked = any(cell.ranks for cell in content.shown)
    for at in range(0, len(content.shown), row):
        some = content.shown[at : at + row]
        yield f"{'cpu':<{LABEL}}" + "".join(f"{cell.cpus:>{width}}" for cell in some)
        if ranked:
            yield f"{'rank':<{LABEL}}" + "".join(f"{_of_cell(cell):>{width}}" for cell in some)


def _distances(node: Node, width: int) -> Iterator[str]:
    if not node.distances:
        return
    names = [str(domain.numa_node) for domain in node.domains]
    cell = 1 + max(len(word) for words in (names, *(map(str, row) for row in node.distances)) for word in words)
    head = len("distance")
    if head + cell * len(names) > width:
        return
    yield ""
    yield f"{'distance':<{head}}" + "".join(f"{name:>{cell}}" for name in names)
    for name, row in zip(names, node.distances):
        yield f"{'numa ' + name:<{head}}" + "".join(f"{value:>{cell}}" for value in row)


def wrapped(line: str, width: int) -> list[str]:
    """Broken at blanks, and in lists of numbers after their commas; at least one line."""
    lines, now = [], ""
    for piece in re.findall(r"\s*[^\s,]+,*|\s*,+", line):
        if now and len(now) + len(piece) > width:
            lines.append(now)
            now = ""
        now += piece if now else piece.lstrip()
        if len(now) > width:
            whole = (len(now) - 1) // width * width
            lines += (now[at : at + width] for at in range(0, whole, width))
            now = now[whole:]
    return [*lines, now] if now or not lines else lines


# SVG

PAGE = 960
"""Width that a picture of several domains fills, in pixels."""
LEAST = 560
"""What lines below and above the boxes may take in any case."""
MARGIN, PAD, GAP = 24, 12, 10
HEAD, LINE = 26, 17
CELL = 32
CHAR = 7.3
"""Width of a character of FONT at 12 pixels: a bound rather than a mean, as other fonts may take its place."""
FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
INK, FAINT, EXEC = "#1f2933", "#52606d", "#c0392b"
COLOURS = ("#0b7a75", "#2b6cb0", "#6b46c1", "#b7561a", "#2f855a", "#a8326e", "#7a6a10", "#4a5a70")


def svg(nodes: Sequence[Node]) -> str:
    """The pictures as one SVG document."""
    parts: list[str] = []
    at, width = MARGIN, 0
    for node in nodes:
        drawn = _node_svg(node, at)
        parts += drawn.parts
        width = max(width, drawn.width)
        at += drawn.height + MARGIN
    width += 2 * MARGIN
    title = escape("; ".join(node.title for node in nodes) or "nothing")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {at}" width="{width}" height="{at}"',
            f'     font-family="{FONT}" font-size="12" fill="{INK}">',
            f"<title>{title}</title>",
            f'<rect width="{width}" height="{at}" fill="#ffffff"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


class Drawn(NamedTuple):
    """Elements, and the room that they take."""

    parts: list[str]
    width: int
    height: int


def _write(x: float, y: float, words: str, *, size: int = 12, fill: str = INK, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}"{more}>{escape(words)}</text>'


def _frame(x: int, y: int, width: int, height: int, fill: str, stroke: str, more: str = "") -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{stroke}"{more}/>'


def _mixed(colour: str, share: float) -> str:
    """A colour on white paper."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - part) * share):02x}" for part in parts)


def _node_svg(node: Node, top: int) -> Drawn:
    contents = [_content(domain, node) for domain in node.domains]
    cell = _cell_px([cell for content in contents for cell in content.cells])
    box = max((_box_width(domain, content, cell) for domain, content in zip(node.domains, contents)), default=0)
    groups = node.groups or (("", tuple(range(len(node.domains)))),)
    inset = PAD if node.groups else 0
    most = max(len(rows) for _, rows in groups)
    columns = _columns(most, (PAGE - 2 * inset + GAP) // (box + GAP))
    width = columns * (box + GAP) - GAP + 2 * inset
    about = wrapped(node.about, int(max(width, LEAST) / CHAR))
    parts = [_write(MARGIN, top + 16, node.title, size=17, more=' font-weight="bold"')]
    parts += [_write(MARGIN, top + 36 + LINE * n, line, fill=FAINT) for n, line in enumerate(about)]
    at = top + 36 + LINE * len(about)
    for heading, rows in groups:
        first, outer = at, at
        if heading:
            outer = at + HEAD
            parts.append("")
        hole = len(parts) - 1
        inside, at = _boxes_svg(node, contents, rows, columns, (box, cell), MARGIN + inset, outer)
        parts += inside
        if heading:
            parts[hole] = _frame(MARGIN, first, width, at - first + PAD, "#fbfcfd", "#cbd2d9")
            parts.append(_write(MARGIN + PAD, first + 18, heading, fill=FAINT))
            at += PAD
        at += GAP
    for note in node.notes:
        for line in wrapped(note, int(max(width, LEAST) / CHAR)):
            parts.append(_write(MARGIN, at + 12, line, fill=EXEC))
            at += LINE
    parts += _distances_svg(node, at)
    at += (len(node.distances) + 2) * LINE if _with_matrix(node) else 0
    at += 4
    legend = _legend(node, contents, at)
    parts += legend
    at += LINE + 6 if legend else 0
    widest = max([len(line) for line in (*about, *node.notes)], default=0)
    wanted = max(
        int(min(widest * CHAR, LEAST)),
        int(len(node.title) * 11.5),
        LEAST if legend else 0,
        110 + 34 * len(node.distances) if _with_matrix(node) else 0,
    )
    return Drawn(parts, max(width, wanted), at - top)


def _boxes_svg(
    node: Node,
    contents: Sequence[Content],
    rows: Sequence[int],
    columns: int,
    widths: tuple[int, int],
    left: int,
    top: int,
) -> tuple[list[str], int]:
    """Boxes in a grid, and where it ends. ``widths``: of a box and of a cell."""
    parts: list[str] = []
    box, cell = widths
    for at in range(0, len(rows), columns):
        line = rows[at : at + columns]
        height = max(_box_height(node.domains[row], contents[row], box) for row in line)
        for column, row in enumerate(line):
            colour = COLOURS[row % len(COLOURS)] if node.domains[row].cores else FAINT
            parts += _box_svg(
                node.domains[row], contents[row], colour, (left + column * (box + GAP), top, box, height), cell
            )
        top += height + GAP
    return parts, top - GAP


def _cell_px(cells: Sequence[Cell]) -> int:
    labels = max((len(cell.cpus) * (5 if cell.ranks else 6.2) for cell in cells), default=0) + 8
    ranks = max((len(_in_cell(cell)) for cell in cells), default=0) * 8.2 + 8
    return max(CELL, int(labels), int(ranks))


def _in_cell(cell: Cell) -> str:
    return ",".join(map(str, cell.ranks)) if len(cell.ranks) <= MOST_IN_CELL else f"{len(cell.ranks)} \u00d7"


def _cells_per_row(content: Content) -> int:
    return _per_row(len(content.cells), 8 if len(content.cells) <= 32 else 16)


def _box_width(domain: Domain, content: Content, cell: int) -> int:
    cells = _cells_per_row(content) if content.cells else 0
    words = max((min(len(line), NARROW) for line in (*content.lines, *domain.notes)), default=0)
    head = len(f"numa {domain.numa_node}  {_memory(domain)}")
    return max(cells * (cell + 4) - 4, int(words * CHAR) + 1, int(head * 8.5), 96) + 2 * PAD


def _box_lines(domain: Domain, content: Content, box: int) -> list[tuple[str, str]]:
    """What stands below the cells, and its colour."""
    room = int((box - 2 * PAD) / CHAR)
    notes = [(piece, FAINT) for line in domain.notes for piece in wrapped(line, room)]
    return [*notes, *((piece, INK) for line in content.lines for piece in wrapped(line, room))]


def _box_height(domain: Domain, content: Content, box: int) -> int:
    row = _cells_per_row(content) if content.cells else 1
    grid = -(-len(content.cells) // row) * (CELL + 4)
    lines = len(_box_lines(domain, content, box))
    return HEAD + grid + (lines * LINE + 4 if lines else 0) + PAD // 2


def _box_svg(domain: Domain, content: Content, colour: str, place: tuple[int, int, int, int], width: int) -> list[str]:
    left, top, box, height = place
    dash = "" if domain.cores else ' stroke-dasharray="5 4"'
    parts = [
        f"<!-- numa {domain.numa_node} -->",
        _frame(left, top, box, height, _mixed(colour, 0.08), _mixed(colour, 0.7), dash),
        _write(left + PAD, top + 18, f"numa {domain.numa_node}", size=13, fill=colour, more=' font-weight="bold"'),
    ]
    if _memory(domain):
        parts.append(
            _write(left + box - PAD, top + 18, _memory(domain), size=11, fill=FAINT, more=' text-anchor="end"')
        )
    row = _cells_per_row(content) if content.cells else 1
    shared = _mixed(colour, 0.22) if any(not rank.cpus < domain.cpus for rank in domain.ranks) else "#ffffff"
    for number, cell in enumerate(content.cells):
        x = left + PAD + number % row * (width + 4)
        parts += _cell_svg(cell, x, top + HEAD + number // row * (CELL + 4), width, colour, shared)
    at = top + HEAD + -(-len(content.cells) // row) * (CELL + 4) + 12
    for line, fill in _box_lines(domain, content, box):
        parts.append(_write(left + PAD, at, line, fill=fill))
        at += LINE
    return parts


def _cell_svg(cell: Cell, x: int, y: int, width: int, colour: str, shared: str) -> Iterator[str]:
    middle = x + width / 2
    centred = ' text-anchor="middle"'
    if not cell.ranks:
        yield _frame(x, y, width, CELL, shared, _mixed(colour, 0.35))
        yield _write(middle, y + CELL / 2 + 4, cell.cpus, size=10, fill=FAINT, more=centred)
        return
    fill, stroke, ink = (colour, colour, "#ffffff") if cell.forked else ("#ffffff", EXEC, EXEC)
    yield _frame(x, y, width, CELL, fill, stroke)
    yield _write(middle, y + 11, cell.cpus, size=8, fill=_mixed(colour, 0.25) if cell.forked else FAINT, more=centred)
    yield _write(middle, y + 26, _in_cell(cell), size=13, fill=ink, more=centred + ' font-weight="bold"')


def _with_matrix(node: Node) -> bool:
    return 0 < len(node.distances) <= 16


def _distances_svg(node: Node, top: int) -> Iterator[str]:
    if not _with_matrix(node):
        return
    right = ' text-anchor="end"'
    yield _write(MARGIN, top + LINE, "distance", size=11, fill=FAINT)
    for row, domain in enumerate(node.domains):
        y, colour = top + LINE * (row + 2), COLOURS[row % len(COLOURS)] if domain.cores else FAINT
        yield _write(MARGIN + 104 + 34 * row, top + LINE, str(domain.numa_node), size=11, fill=colour, more=right)
        yield _write(MARGIN, y, f"numa {domain.numa_node}", size=11, fill=colour)
        for column, value in enumerate(node.distances[row]):
            yield _write(MARGIN + 104 + 34 * column, y, str(value), size=11, more=right)


def _legend(node: Node, contents: Sequence[Content], top: int) -> list[str]:
    if not any(domain.ranks for domain in node.domains):
        return []
    colour, line = COLOURS[0], _mixed(COLOURS[0], 0.35)
    told = []
    if any(cell.ranks for content in contents for cell in content.cells):
        told.append((colour, colour, "CPUs (small) with their rank"))
    if any(not rank.cpus < domain.cpus for domain in node.domains for rank in domain.ranks):
        told.append((_mixed(colour, 0.22), line, "CPUs that ranks share"))
    told.append(("#ffffff", line, "no rank"))
    if any(not rank.forked for domain in node.domains for rank in domain.ranks):
        told.append(("#ffffff", EXEC, "exec'd"))
    parts, x = [], MARGIN
    for fill, stroke, words in told:
        parts.append(f'<rect x="{x}" y="{top + 2}" width="12" height="12" rx="3" fill="{fill}" stroke="{stroke}"/>')
        parts.append(_write(x + 18, top + 12, words, size=11, fill=FAINT))
        x += 36 + int(len(words) * 6.6)
    return parts
