"""Quota stores: the projection of the ledger that decides whether a call may go out."""
