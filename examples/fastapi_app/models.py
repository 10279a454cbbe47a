"""Notes, in a database of their own."""

import os
from collections.abc import Iterator

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = create_engine(os.environ.get("DATABASE", "sqlite:///notes.db"))


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    author: Mapped[str]
    text: Mapped[str]
    summary: Mapped[str | None]


def session() -> Iterator[Session]:
    """A dependency: what a view does with it is saved when the view succeeds."""
    with Session(engine) as opened, opened.begin():
        yield opened
