"""The progress page for the lead: `ProgressView`."""

import importlib.util
import io
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

from jinja2 import Environment, PackageLoader, select_autoescape

from ..labeling.progress_report import LabelProgress
from ..labeling.queue import LabelQueue


TEMPLATES = Environment(loader=PackageLoader(__package__), autoescape=select_autoescape(default=True))
QUICK = 1.0  # seconds to wait for a report before the page says that it is on its way


class ProgressView:
    """
    [`label_progress`] as a page with its plot. It is computed beside the server, because responses may have to be embedded first,
    and only where there are new labels.

    Args:
        queue ([`LabelQueue`]):
            The pairs and the label log.
    """

    def __init__(self, queue: LabelQueue):
        self.queue = queue
        self._worker = ThreadPoolExecutor(1)
        self._lock = threading.Lock()
        self._asked: tuple[int, Future[LabelProgress]] | None = None
        self._newest: LabelProgress | None = None
        self._failure: str | None = None

    def html(self) -> str:
        """The page, with the newest report that there is."""
        is_new = self._look()
        return TEMPLATES.get_template("progress.html.jinja").render(
            report=self._newest,
            is_new=is_new,
            failure=self._failure,
            counts=self.queue.progress(),
            overlap=self.queue.overlap,
            has_plot=self._has_plot(),
        )

    def png(self) -> bytes | None:
        """The plot of the newest report; `None` if there is nothing to draw."""
        if self._newest is None or not self._has_plot():
            return None
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        picture = io.BytesIO()
        figure = self._newest.plot()
        figure.set_dpi(150)
        FigureCanvasAgg(figure).print_png(picture)  # type: ignore[no-untyped-call]
        return picture.getvalue()

    def _has_plot(self) -> bool:
        return (
            self._newest is not None
            and bool(self._newest.curve)
            and importlib.util.find_spec("matplotlib") is not None
        )

    def _look(self) -> bool:
        """Ask for a report if there are new labels, take it if it is quick, and say whether the newest one has all of them."""
        size = self.queue.log.stat().st_size
        with self._lock:
            if self._asked is None or (self._asked[0] != size and self._asked[1].done()):
                self._asked = size, self._worker.submit(self.queue.label_progress)
            of_size, report = self._asked
        wait([report], timeout=QUICK)
        if not report.done():
            return False
        with self._lock:
            self._failure = None
            try:
                self._newest = report.result()
            except Exception as error:
                self._asked = None  # to be tried again
                if not isinstance(error, OSError | ValueError | ImportError):  # such as an embedder that is not there
                    raise
                self._failure = str(error)
        return of_size == size
