"""A console, sound or with one defect, each under the console suite."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, ClassVar, cast

from skyward.console import clean, describe, summary_text
from skyward.events import Event, Log
from skyward.terminal import write_line
from skyward_testing.consoles import ConsoleContract

if TYPE_CHECKING:
    from skyward.hooks import PoolView


class Plain:
    """Sound: a line an event."""

    tick_interval: ClassVar[float | None] = 1.0
    handles: ClassVar[tuple[type[Event], ...]] = (Event,)

    def __init__(self) -> None:
        self.view: PoolView | None = None

    def start(self, view: PoolView) -> None:
        self.view, self.stream = view, sys.stderr

    def handle(self, event: Event) -> None:
        said = describe(event)
        if self.view is not None and said is not None:
            self.write(" ".join(said))

    def tick(self) -> None:
        pass

    def stop(self) -> None:
        if self.view is not None:
            self.write(f"{clean(self.view.name)} {summary_text(self.view.snapshot(), 0)}")
            self.view = None

    def write(self, line: str) -> None:
        if self.stream is not None:
            write_line(self.stream, line)


class Torn:
    """A stream that loses the text of a line that isn't finished."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(text if text.endswith("\n") else "")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Broken(Plain):
    defect: ClassVar[str]
    started: ClassVar[list[object]]

    def start(self, view: PoolView) -> None:
        super().start(view)
        match self.defect:
            case "serves one pool":
                self.started.append(view)
                assert len(self.started) == 1
            case "needs a terminal":
                os.get_terminal_size(self.stream.fileno())
            case "needs a wide terminal" if self.stream is not None and self.stream.isatty():
                1 // (os.get_terminal_size(self.stream.fileno()).columns // 20)
            case "needs a node":
                view.snapshot().nodes[0]
            case "counts to nine":
                assert all(node.rank < 40 for node in view.snapshot().nodes)
            case "hides the cursor":
                self.write("\x1b[?25l")
            case "hides in another screen":
                self.write("\x1b[?1049h")
            case "tears lines" | "keeps the streams":
                self.before = sys.stdout
                sys.stdout = cast("Any", Torn(sys.stdout))
            case "leaves a thread":
                threading.Thread(target=threading.Event().wait, daemon=True).start()
            case _:
                pass

    def handle(self, event: Event) -> None:
        match self.defect:
            case "raises":
                raise RuntimeError("always")
            case "handles what it asked for only":
                assert type(event) is not Event
            case "prints":
                print("to stdout")
            case "paints everywhere" if self.view is not None:
                self.write("\x1b[1mbold\x1b[0m")
            case "loves red" if self.stream is not None and self.stream.isatty():
                self.write("\x1b[31mred\x1b[0m")
            case "leaves red on" if self.stream is not None and self.stream.isatty():
                self.write("\x1b[31mred")
            case "speaks ascii" if isinstance(event, Log):
                event.line.encode("ascii")
            case "passes everything on" if isinstance(event, Log) and self.stream is not None:
                self.stream.write(event.line)
            case "has no patience" if isinstance(event, Log):
                assert len(event.line) < 1_000_000
            case _:
                pass
        super().handle(event)

    def stop(self) -> None:
        match self.defect:
            case "stops once":
                assert self.view is not None
            case "tears lines" if self.view is not None:
                sys.stdout = self.before
            case "talks on":
                self.write("still here")
            case _:
                pass
        super().stop()

    def write(self, line: str) -> None:
        if self.defect == "trusts stderr":
            print(line, file=self.stream, flush=True)
            assert not getattr(self.stream, "closed", True)
        elif self.defect == "trusts its reader" and self.stream is not None and not self.stream.closed:
            self.stream.write(line + "\n")
        else:
            super().write(line)


DEFECTS = {
    "ticks a hundred times a second": "test_has_the_members_of_the_port",
    "serves one pool": "test_a_class_can_be_used_for_one_pool_after_another",
    "raises": "test_survives_every_event",
    "handles what it asked for only": "test_survives_every_event",
    "speaks ascii": "test_survives_any_text[3]",
    "passes everything on": "test_survives_any_text_at_a_terminal",
    "has no patience": "test_survives_huge_lines",
    "counts to nine": "test_survives_64_nodes_in_any_status",
    "needs a node": "test_survives_a_pool_without_nodes_in_any_phase[init]",
    "needs a wide terminal": "test_survives_any_size[1-1]",
    "paints everywhere": "test_survives_a_dumb_terminal",
    "stops once": "test_stop_is_idempotent_and_works_before_start",
    "talks on": "test_is_silent_after_stop",
    "prints": "test_writes_nothing_to_stdout",
    "needs a terminal": "test_needs_no_terminal_and_writes_no_escapes_without_one",
    "trusts stderr": "test_survives_a_stderr_that_is_missing_closed_or_ascii",
    "trusts its reader": "test_survives_a_reader_that_leaves",
    "loves red": "test_honours_no_color",
    "leaves red on": "test_leaves_the_terminal_usable",
    "keeps the streams": "test_puts_back_what_it_replaced",
    "tears lines": "test_what_the_user_prints_comes_out_whole",
    "leaves a thread": "test_leaves_no_thread",
    "hides the cursor": "test_leaves_the_terminal_usable",
    "hides in another screen": "test_leaves_the_terminal_usable",
}


def suite(defect: str) -> type[ConsoleContract]:
    class BrokenPlain(Broken):
        pass

    BrokenPlain.defect = defect
    if defect == "ticks a hundred times a second":
        BrokenPlain.tick_interval = 0.01
    BrokenPlain.started = []

    class Specimen(ConsoleContract):
        def console(self) -> Plain:
            return BrokenPlain()

    return Specimen


globals().update({f"Test {defect}": suite(defect) for defect in ("", *DEFECTS)})
