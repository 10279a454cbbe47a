"""An ordinary program with the OpenAI SDK: it asks once, streams once, and goes on until its team's budget is spent."""

import os

import openai

client = openai.OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"))
question = [{"role": "user", "content": "What holds a budget under concurrency?"}]

reply = client.chat.completions.create(model="sandbox/echo", messages=question)
print("whole: ", reply.choices[0].message.content)

print("stream:", end=" ")
for chunk in client.chat.completions.create(model="sandbox/echo", messages=question, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

for count in range(1, 100):
    try:
        reply = client.chat.completions.create(model="tutor", messages=question)
    except openai.APIStatusError as refusal:
        print("refused:", refusal.status_code, refusal.code)
        print("        ", refusal.body["message"])
        break
    print(f"call {count}:", reply.usage.completion_tokens, "tokens")
