"""A step: one notebook executed into a run, and what becomes of its processes, its log and its pages.

A step is finished when papermill did not raise, every code cell was executed and no output is an error: the executed notebook's
own metadata cannot be trusted on that. Only then is it moved to its final name.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

from forecastbook.environment import git_state
from forecastbook.files import sweep, write_text
from forecastbook.run import STEPS, Run

log = logging.getLogger("forecastbook")
LESS = "fewer series (max_series) or a smaller model.batch_size need less memory"
MARK = "FORECASTBOOK_RUN"  # in the environment of a kernel and of all it starts
LONGEST = 80  # characters of the directory for temporary files in which a socket still has room
CELL_TIMEOUT = 3600  # seconds a cell may take


class StepError(RuntimeError):
    """A notebook that did not finish."""


class Stopped(SystemExit):
    """The process was asked to end (SIGTERM)."""


def check(notebook: Path) -> None:
    """Raise StepError when a notebook could not take its parameters: no cell tagged so, or another kernel."""
    import nbformat

    nb = nbformat.read(notebook, as_version=4)
    if nb.metadata.get("kernelspec", {}).get("name") != "python3":
        raise StepError(f"{notebook}: kernelspec is {nb.metadata.get('kernelspec', {}).get('name')!r}, wanted 'python3'")
    if not any("parameters" in cell.metadata.get("tags", []) for cell in nb.cells):
        raise StepError(
            f"{notebook}: no cell is tagged 'parameters', so the run's own values would be ignored; tag the second cell"
        )


def faults(nb) -> str | None:
    """Why an executed notebook is not finished; None when it is. Outputs decide, the metadata of papermill says too much."""
    for index, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            continue
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell {index} raised {output.ename}: {' '.join(str(output.evalue).split())[:600]}"
        if cell.source.strip() and cell.execution_count is None:
            return f"cell {index} was never executed"
    return None


def execute(notebook: Path, run: Run, overlays: list[str], timeout: int | None = None) -> Path:
    """Execute one notebook into the run: ``<run>/<step>.ipynb``, moved there only when every cell finished.

    A failed notebook stays beside it as ``<step>.failed.ipynb`` (and .html). Raises StepError that names cell and cause.
    """
    from forecastbook import report

    step, run = notebook.stem, Run(run.dir)  # read anew: another process may have finished the run while this one waited
    check(notebook)
    part, final, failed = run.dir / f".{step}.part.ipynb", run.dir / f"{step}.ipynb", run.dir / f"{step}.failed.ipynb"
    sweep(run.dir)
    for stale in (part, failed, failed.with_suffix(".html")):
        stale.unlink(missing_ok=True)
    values = {
        "job": run.job,
        "as_of": run.as_of.isoformat(),
        "out": str(run.home.parent),
        "warehouse": run.warehouse,
        "overlays": [str(o) for o in overlays],
    }
    log.info("%s starts (run %s)", step, run.id)
    started, reason = time.monotonic(), None
    # a search is a step aside: it neither reopens a finished run nor fails one
    aside = step == "02_tune" and run.manifest["status"] == "done"
    (commit, dirty), begun = git_state(), run.manifest.get("commit")
    if (commit, dirty) != (begun, run.manifest.get("dirty")):
        log.warning("%s is made by other code than the run was begun with: commit %s now, %s then", step, commit, begun)
    code = {step: {"commit": commit, "dirty": dirty}}
    run.note(steps={step: "running"}, code=code, **({} if aside else {"status": "running"}))
    try:
        nb, reason = _papermill(notebook, part, values, run, timeout or CELL_TIMEOUT)
        if reason is None:
            _keep(nb, part)
            html = report.render_notebook(part)
            os.replace(html, final.with_suffix(".html"))
            state = {} if aside else {"status": "done" if step == STEPS[-1] else "running", "failed": None}
            run.note(steps={step: "done"}, seconds={step: _since(started)}, **state)  # what a report can say of its own step
            if step == STEPS[-1]:
                _pages(run)
            report.render_index(run.home.parent)
            seconds = _since(started)  # with the pages: of many items they take as long as a step
            run.note(seconds={step: seconds})
            before = [run.dir / f"{earlier}.ipynb" for earlier in STEPS if earlier < step and earlier != "02_tune"]
            ahead = max(path.stat().st_mtime for path in (notebook, *before) if path.is_file()) + 1
            if ahead > time.time():  # a clock that was set back: Make would make it again each time
                os.utime(part, (ahead, ahead))
            os.replace(part, final)
            log.info(
                "%s finished in %.1f s%s", step, seconds, f"; report: {run.dir / 'report.html'}" if step == STEPS[-1] else ""
            )
            return final
    except (KeyboardInterrupt, Stopped):
        reason = "was stopped"
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        if reason is not None:
            _tell_of_failure(run, part, failed, {} if aside else {"status": "failed", "failed": {"step": step, "why": reason}})
    raise StepError(f"{step} failed: {reason}; see {failed.with_suffix('.html')} and {run.dir / 'run.log'}")


def _since(started: float) -> float:
    """Seconds since then, to a tenth."""
    return round(time.monotonic() - started, 1)


def _tell_of_failure(run: Run, part: Path, failed: Path, state: dict) -> None:
    """Say in manifest, page, report and index that a step failed; what cannot be written is logged, and hides nothing else.

    On a full disk, say, what failed first is what must be told.
    """
    from forecastbook import report

    def page():
        if part.is_file():
            os.replace(part, failed)
            report.render_notebook(failed)

    told = {"steps": {failed.name.partition(".")[0]: "failed"}, **state}
    index = run.home.parent
    for tell in (lambda: run.note(**told), page, lambda: _pages(run), lambda: report.render_index(index)):
        try:
            tell()
        except Exception as error:  # whatever it is: the failure itself must be told
            log.error("not all that is to be said of the failed step could be written: %s", error)
    part.unlink(missing_ok=True)


def _papermill(notebook: Path, part: Path, values: dict, run: Run, timeout: int):
    """Run papermill; returns (executed notebook, None or why it did not finish). No process of the kernel's is left behind."""
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillException
    from traitlets.config import Config

    reason = None
    _sweep(run)  # of a runner that was killed
    # The kernel's sockets lie in a directory of their own, which no other user may enter and no other run shares. Not under the
    # run: a socket's path may have 107 characters.
    short = None if len(tempfile.gettempdir()) < LONGEST else "/tmp"
    with (
        _console(run.dir / "run.log"),
        tempfile.TemporaryDirectory(prefix="fb-", dir=short) as private,
        _environment(run, private),
    ):
        try:
            papermill.execute_notebook(
                str(notebook),
                str(part),
                values,
                kernel_name="python3",
                progress_bar=False,
                cwd=os.getcwd(),
                execution_timeout=timeout,
                start_timeout=120,
                extra_arguments=["--log-level=CRITICAL"],  # a kernel that is told to end complains of its sockets
                config=Config({"KernelManager": {"transport": "ipc", "connection_file": f"{private}/kernel.json"}}),
            )
        except CellTimeoutError as error:
            reason = f"a cell took longer than {timeout} s: {' '.join(str(error).split())[:300]}"
        except DeadKernelError:
            reason = f"the kernel died (killed, or out of memory): {LESS}"
        except PapermillException as error:
            said = " ".join(str(getattr(error, "evalue", error)).split())[:600]
            reason = f"{getattr(error, 'ename', type(error).__name__)}: {said}"
            if re.search(r"MemoryError|allocate memory|out of memory", reason) and "model.device" not in reason:
                reason += f": {LESS}"
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:600] or type(error).__name__
        except OSError as error:
            unwritable = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES)
            reason = f"cannot write {part.parent} ({error.strerror})" if unwritable else f"{type(error).__name__}: {error}"
        finally:
            _sweep(run)
    try:
        nb = nbformat.read(part, as_version=4)
    except (OSError, ValueError) as error:
        return None, reason or f"{part}: cannot be read ({error})"
    return nb, reason or faults(nb)


@contextlib.contextmanager
def _environment(run: Run, private: str):
    """What is started inside carries the run's mark in its environment, and has a place for settings where HOME is none."""
    wanted = {MARK: str(run.dir.resolve())}
    if not os.access(os.path.expanduser("~"), os.W_OK):
        wanted |= {name: private for name in ("IPYTHONDIR", "MPLCONFIGDIR") if name not in os.environ}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            del os.environ[name]


def _keep(nb, part: Path) -> None:
    """Write the executed notebook with its machine-bound traces (absolute paths of this process) left out."""
    import nbformat

    for key in ("input_path", "output_path"):
        nb.metadata.get("papermill", {}).pop(key, None)
    write_text(part, nbformat.writes(nb))


def _pages(run: Run) -> None:
    """The run's report, and its notebooks again: now each page can link to all the others."""
    from forecastbook import report

    report.render_run(run.dir)
    for made in sorted(run.dir.glob("[0-9][0-9]_*.ipynb")):
        report.render_notebook(made)


def _sweep(run: Run) -> None:
    """End every process that a kernel of this run started or was: they carry the run's mark in their environment."""
    import psutil

    mark, found = str(run.dir.resolve()), []
    spared = {os.getpid(), *(p.pid for p in psutil.Process().parents())}  # a notebook by hand may run earlier steps
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # gone, or another user's: not ours
            if process.pid not in spared and process.environ().get(MARK) == mark:
                process.kill()
                found.append(process)
    psutil.wait_procs(found, timeout=10)


@contextlib.contextmanager
def _console(path: Path):
    """While a kernel writes ``run.log``, show its new lines here: the console says what the log says."""
    path.touch()
    done = threading.Event()

    def follow():
        with path.open(encoding="utf-8") as stream:
            stream.seek(0, os.SEEK_END)
            while True:
                ended = done.is_set()
                if text := stream.read():
                    sys.stderr.write(text)
                elif ended:
                    return
                done.wait(0.2)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)
