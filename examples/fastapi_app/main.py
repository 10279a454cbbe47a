"""Notes that a model summarises and translates, on the budget of the team and of each author."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from typing import Annotated

import llm
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import HTMLResponse, StreamingResponse
from models import Base, Note, engine, session
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

import llmguard
from llmguard.integrations import fastapi as guarded

llmguard.instrument()  # every SDK client of this process


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Before the first request and after the last."""
    Base.metadata.create_all(engine)
    async with guarded.lifespan(app):
        yield


app = FastAPI(title="Notes", lifespan=lifespan)
guarded.add_exception_handlers(app)
app.mount("/llm", llmguard.create_app())  # for programs with a key


def author(x_author: Annotated[str, Header()] = "demo") -> str:
    """Who is asking; an application of yours has real users."""
    return x_author


def note(number: int, db: Annotated[Session, Depends(session)]) -> Note:
    """The note that a path names."""
    found = db.get(Note, number)
    if found is None:
        raise HTTPException(404, f"there is no note {number}")
    return found


charged = guarded.attribute(team="notes", env="prod", feature="notes", end_user=author)


class Draft(BaseModel):
    text: str


@app.post("/notes", status_code=201)
def add(draft: Draft, who: Annotated[str, Depends(author)], db: Annotated[Session, Depends(session)]) -> dict[str, int]:
    """Keep a note."""
    added = Note(author=who, text=draft.text)
    db.add(added)
    db.flush()
    return {"id": added.id}


@app.post("/notes/{number}/summary", dependencies=[charged])
def summary(found: Annotated[Note, Depends(note)]) -> dict[str, str]:
    """Summarise a note and keep the summary."""
    found.summary = llm.summarise(found.text)
    return {"summary": found.summary}


@app.get("/notes/{number}/in/{language}", dependencies=[charged])
async def translation(found: Annotated[Note, Depends(note)], language: str) -> StreamingResponse:
    """A note in another language, while it is written."""
    return StreamingResponse(llm.translate(found.text, language), media_type="text/plain; charset=utf-8")


@app.get("/", response_class=HTMLResponse)
def page(
    db: Annotated[Session, Depends(session)],
    budgets: Annotated[list[guarded.Remaining], guarded.remaining(team="notes", end_user=author)],
) -> str:
    """All notes, and what is left of today's money."""
    notes = "".join(f"<li>{escape(each.summary or each.text)}</li>" for each in db.scalars(select(Note)))
    left = "".join(f"<li>{at.rule}: ${at.remaining / 1e9:.4f} of ${at.limit / 1e9:.2f}</li>" for at in budgets)
    return f"<!doctype html><title>Notes</title><h1>Notes</h1><ul>{notes}</ul><h2>Left today</h2><ul>{left}</ul>"
