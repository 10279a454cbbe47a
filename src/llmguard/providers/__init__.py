"""Wire dialects, pure: parse a request, read usage from a reply, render a refusal, end a stream."""
