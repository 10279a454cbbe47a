"""Gives the worker something to do: three summaries, a digest, and the broken task."""

from tasks import digest, extract, summarise

DOCUMENTS = ["Rent is due on the first.", "The lift is serviced in May.", "Keys are returned on moving out."]

jobs = {f"summary {number}": summarise.delay(text) for number, text in enumerate(DOCUMENTS, 1)}
jobs["digest"] = digest.delay(DOCUMENTS)
jobs["extraction (broken)"] = extract.delay("Turn the tap clockwise. " * 20_000)
for name, job in jobs.items():
    print(f"{name:20} {job.get(timeout=120, propagate=False)}")
