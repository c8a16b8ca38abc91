"""A doctor's report as text: facts in two columns, problems with their advice below."""

from ggufkit.formats.printable import cleaned
from ggufkit.reports.units import human_bytes
from ggufkit.runtime.doctor import DoctorReport


def render(report: DoctorReport) -> str:
    """The result for people."""
    report = cleaned(report)
    rows = [
        ("ggufkit", f"{report.ggufkit}, Python {report.python}"),
        ("engine", f"llama-cpp-python {report.engine or 'not installed'}  {report.libllama}"),
        ("built for", report.built_for),
        ("machine", f"{report.platform}, {report.cpu}"),
        ("features", " ".join(report.cpu_flags)),
        ("AMX", report.amx),
        ("kernels", report.kernels),
        ("tried", "; ".join(report.tried)),
        ("threads", f"{report.threads} ({report.threads_reason})"),
        ("waiting", report.waiting),
        ("memory", f"{human_bytes(report.memory_available)} free of {human_bytes(report.memory_total)}"),
        ("disk", f"{human_bytes(report.disk_free)} free at {report.disk_path}"),
        ("GPU", "offload is built in" if report.gpu_offload else "none built in: runs on the processor"),
        ("caches", f"{report.cache_folder}; compiled kernels {report.numba_cache}"),
    ]
    lines = [f"{label:10} {value}" for label, value in rows if value]
    for problem in report.problems:
        lines += ["", f"problem: {problem.what}"] + ([f"  advice: {problem.advice}"] if problem.advice else [])
    return "\n".join(lines if report.problems else [*lines, "", "no problems found"])
