"""A bundle in another format."""

from pathlib import Path

from services.kit.digests import file_digest
from services.kit.errors import ExportUnavailable
from services.trainer.engine.session import Session
from services.trainer.messages import Exported, ExportTask
from services.vision.exports.description import Subject
from services.vision.exports.make import Unexportable, make


def export(task: ExportTask, session: Session) -> Exported:
    """Makes the archive; ExportUnavailable if the format, or this worker, cannot."""
    subject = Subject(task.model, task.model_version, task.bundle_digest)
    try:
        made = make(
            Path(task.bundle_directory),
            subject,
            task.format,
            Path(task.output_directory),
            lambda done: session.progress("export", done),
        )
    except Unexportable as fault:
        raise ExportUnavailable(name=task.model, format=task.format.value, problem=fault) from fault
    sha256 = file_digest(made.path)
    return Exported(
        path=str(made.path), sha256=sha256, max_difference=made.max_difference, used=session.meter.elapsed()
    )
