"""The routes, as data. Read by :mod:`llmguard.providers.routes`; a path that is not here is not served.

A row is: methods, path, operation, then `dialect` where one understands the body and `+kind` where success makes an
object at the provider. `{kind}` in a path is the id of an object of that kind, which must belong to the caller's team;
`{model}` is a model name; `*` is any one segment (a part of an object named before it), `**` any number of them.

All tenants share one provider account, so what an operation may do follows from what it costs and whom it can reach:

=============  =========================================================================================================
generate       metered and charged by the dialect
free           costs nothing at the provider and reaches nothing stored there
models         the guard answers itself, with the models that the caller's key may use
object         costs nothing; reaches, changes or makes an object, which is the team's that made it
passthrough    costs something that no dialect can meter: 403 unless the provider has a price per request
forbidden      403 always: it lists or changes what belongs to every tenant, mints credentials that go round the
               guard, or starts work whose cost no request shows (agents, evaluations, live sessions)
=============  =========================================================================================================

A file's content is not read: whoever opens files and batches with a price lets the lines of a batch name any object of
the account, so teams that must not see each other's files need provider accounts of their own.

Storage that is billed by the hour (vector stores, containers, cached contents), batches, fine-tunes, files, images,
audio and video are `passthrough`: their price is the operator's to name. The paths were taken from the resources of the
official SDKs (openai 3.57, anthropic 2.13, google-genai 3.6) and the public API references.
"""

from __future__ import annotations

OPENAI = """
POST             /v1/chat/completions                                    generate     openai_chat
GET              /v1/chat/completions                                    forbidden
GET,POST,DELETE  /v1/chat/completions/{chat_completion}                  object
GET              /v1/chat/completions/{chat_completion}/messages         object
POST             /v1/completions                                         generate     openai_chat
POST             /v1/embeddings                                          generate     openai_embeddings
POST             /v1/moderations                                         free
POST             /v1/content_provenance_checks                           passthrough
POST             /v1/decisions                                           passthrough
GET              /v1/models                                              models
GET              /v1/models/{model}                                      models
DELETE           /v1/models/*                                            forbidden

POST             /v1/responses                                           generate     openai_responses
POST             /v1/responses/input_tokens                              free
POST             /v1/responses/compact                                   passthrough
GET,DELETE       /v1/responses/{response}                                object
POST             /v1/responses/{response}/cancel                         object
GET              /v1/responses/{response}/input_items                    object
POST             /v1/conversations                                       object       +conversation
GET,POST,DELETE  /v1/conversations/{conversation}                        object
GET,POST         /v1/conversations/{conversation}/items                  object
GET,DELETE       /v1/conversations/{conversation}/items/*                object

POST             /v1/images/generations                                  passthrough
POST             /v1/images/edits                                        passthrough
POST             /v1/images/variations                                   passthrough
POST             /v1/audio/speech                                        passthrough
POST             /v1/audio/transcriptions                                passthrough
POST             /v1/audio/translations                                  passthrough
ANY              /v1/audio/voices/**                                     forbidden
ANY              /v1/audio/voice_consents/**                             forbidden
POST             /v1/videos                                              passthrough  +video
GET              /v1/videos                                              forbidden
POST             /v1/videos/edits                                        passthrough  +video
POST             /v1/videos/extensions                                   passthrough  +video
ANY              /v1/videos/characters/**                                forbidden
GET,DELETE       /v1/videos/{video}                                      object
GET              /v1/videos/{video}/content                              object
POST             /v1/videos/{video}/remix                                passthrough  +video

POST             /v1/files                                               passthrough  +file
GET              /v1/files                                               forbidden
GET,DELETE       /v1/files/{file}                                        object
GET              /v1/files/{file}/content                                object
POST             /v1/uploads                                             passthrough  +upload
POST             /v1/uploads/{upload}/parts                              passthrough
POST             /v1/uploads/{upload}/complete                           passthrough  +file
POST             /v1/uploads/{upload}/cancel                             object
POST             /v1/batches                                             passthrough  +batch
GET              /v1/batches                                             forbidden
GET              /v1/batches/{batch}                                     object
POST             /v1/batches/{batch}/cancel                              object

POST             /v1/vector_stores                                       passthrough  +vector_store
GET              /v1/vector_stores                                       forbidden
GET,POST,DELETE  /v1/vector_stores/{vector_store}                        object
POST             /v1/vector_stores/{vector_store}/search                 passthrough
POST             /v1/vector_stores/{vector_store}/files                  passthrough
GET              /v1/vector_stores/{vector_store}/files                  object
GET,POST,DELETE  /v1/vector_stores/{vector_store}/files/*                object
GET              /v1/vector_stores/{vector_store}/files/*/content        object
POST             /v1/vector_stores/{vector_store}/file_batches           passthrough
GET              /v1/vector_stores/{vector_store}/file_batches/*         object
GET              /v1/vector_stores/{vector_store}/file_batches/*/files   object
POST             /v1/vector_stores/{vector_store}/file_batches/*/cancel  object
POST             /v1/containers                                          passthrough  +container
GET              /v1/containers                                          forbidden
GET,DELETE       /v1/containers/{container}                              object
POST             /v1/containers/{container}/files                        passthrough
GET              /v1/containers/{container}/files                        object
GET,DELETE       /v1/containers/{container}/files/*                      object
GET              /v1/containers/{container}/files/*/content              object

POST             /v1/fine_tuning/jobs                                    passthrough  +fine_tune
GET              /v1/fine_tuning/jobs                                    forbidden
GET              /v1/fine_tuning/jobs/{fine_tune}                        object
GET              /v1/fine_tuning/jobs/{fine_tune}/events                 object
GET              /v1/fine_tuning/jobs/{fine_tune}/checkpoints            object
POST             /v1/fine_tuning/jobs/{fine_tune}/cancel                 object
POST             /v1/fine_tuning/jobs/{fine_tune}/pause                  object
POST             /v1/fine_tuning/jobs/{fine_tune}/resume                 passthrough
ANY              /v1/fine_tuning/**                                      forbidden

POST             /v1/assistants                                          object       +assistant
GET              /v1/assistants                                          forbidden
GET,POST,DELETE  /v1/assistants/{assistant}                              object
POST             /v1/threads                                             object       +thread
POST             /v1/threads/runs                                        passthrough  +thread
GET,POST,DELETE  /v1/threads/{thread}                                    object
GET,POST         /v1/threads/{thread}/messages                           object
GET,POST,DELETE  /v1/threads/{thread}/messages/*                         object
POST             /v1/threads/{thread}/runs                               passthrough
GET              /v1/threads/{thread}/runs                               object
GET,POST         /v1/threads/{thread}/runs/*                             object
POST             /v1/threads/{thread}/runs/*/cancel                      object
POST             /v1/threads/{thread}/runs/*/submit_tool_outputs         passthrough
GET              /v1/threads/{thread}/runs/*/steps                       object
GET              /v1/threads/{thread}/runs/*/steps/*                     object

POST             /v1/skills                                              passthrough  +skill
GET              /v1/skills                                              forbidden
GET,POST,DELETE  /v1/skills/{skill}                                      object
GET              /v1/skills/{skill}/content                              object
POST             /v1/skills/{skill}/versions                             passthrough
GET              /v1/skills/{skill}/versions                             object
GET,DELETE       /v1/skills/{skill}/versions/*                           object
GET              /v1/skills/{skill}/versions/*/content                   object

ANY              /v1/agents/**                                           forbidden
ANY              /v1/chatkit/**                                          forbidden
ANY              /v1/evals/**                                            forbidden
ANY              /v1/graders/**                                          forbidden
ANY              /v1/live/**                                             forbidden
ANY              /v1/organization/**                                     forbidden
ANY              /v1/projects/**                                         forbidden
ANY              /v1/realtime/**                                         forbidden
ANY              /v1/safety/**                                           forbidden
ANY              /v1/vaults/**                                           forbidden
ANY              /v1/webhook_endpoints/**                                forbidden
ANY              /v1/webhook_event_types/**                              forbidden
ANY              /v1/dashboard/**                                        forbidden
ANY              /v1/usage/**                                            forbidden
"""

AZURE = """
POST             /openai/deployments/{model}/chat/completions            generate     openai_chat
POST             /openai/deployments/{model}/completions                 generate     openai_chat
POST             /openai/deployments/{model}/embeddings                  generate     openai_embeddings
POST             /openai/deployments/{model}/images/generations          passthrough
POST             /openai/deployments/{model}/images/edits                passthrough
POST             /openai/deployments/{model}/audio/speech                passthrough
POST             /openai/deployments/{model}/audio/transcriptions        passthrough
POST             /openai/deployments/{model}/audio/translations          passthrough
POST             /openai/responses                                       generate     openai_responses
GET,DELETE       /openai/responses/{response}                            object
POST             /openai/responses/{response}/cancel                     object
GET              /openai/responses/{response}/input_items                object
ANY              /openai/deployments/**                                  forbidden
ANY              /openai/realtime/**                                     forbidden
ANY              /openai/fine_tuning/**                                  forbidden
"""

ANTHROPIC = """
POST             /v1/messages                                            generate     anthropic_messages
POST             /v1/messages/count_tokens                               free         anthropic_messages
POST             /v1/complete                                            passthrough
GET              /v1/models                                              models
GET              /v1/models/{model}                                      models

POST             /v1/messages/batches                                    passthrough  +message_batch
GET              /v1/messages/batches                                    forbidden
GET,DELETE       /v1/messages/batches/{message_batch}                    object
GET              /v1/messages/batches/{message_batch}/results            object
POST             /v1/messages/batches/{message_batch}/cancel             object
POST             /v1/files                                               passthrough  +file
GET              /v1/files                                               forbidden
GET,DELETE       /v1/files/{file}                                        object
GET              /v1/files/{file}/content                                object
POST             /v1/skills                                              passthrough  +skill
GET              /v1/skills                                              forbidden
GET,DELETE       /v1/skills/{skill}                                      object
POST             /v1/skills/{skill}/versions                             passthrough
GET              /v1/skills/{skill}/versions                             object
GET,DELETE       /v1/skills/{skill}/versions/*                           object
GET              /v1/skills/{skill}/versions/*/content                   object

ANY              /v1/agents/**                                           forbidden
ANY              /v1/deployments/**                                      forbidden
ANY              /v1/deployment_runs/**                                  forbidden
ANY              /v1/dreams/**                                           forbidden
ANY              /v1/environments/**                                     forbidden
ANY              /v1/experimental/**                                     forbidden
ANY              /v1/memory_stores/**                                    forbidden
ANY              /v1/organizations/**                                    forbidden
ANY              /v1/sessions/**                                         forbidden
ANY              /v1/tunnels/**                                          forbidden
ANY              /v1/user_profiles/**                                    forbidden
ANY              /v1/vaults/**                                           forbidden
ANY              /v1/webhooks/**                                         forbidden
"""

# Every row also under /v1 and /v1alpha.
GEMINI = """
POST             /v1beta/models/{model}:generateContent                  generate     gemini_generate
POST             /v1beta/models/{model}:streamGenerateContent            generate     gemini_generate
POST             /v1beta/models/{model}:countTokens                      free         gemini_generate
POST             /v1beta/models/{model}:embedContent                     generate     gemini_embed
POST             /v1beta/models/{model}:batchEmbedContents               generate     gemini_embed
POST             /v1beta/models/{model}:batchGenerateContent             passthrough  +batch
POST             /v1beta/models/{model}:asyncBatchEmbedContent           passthrough  +batch
POST             /v1beta/models/{model}:predict                          passthrough
POST             /v1beta/models/{model}:predictLongRunning               passthrough  +operation
POST             /v1beta/decisions                                       passthrough
ANY              /v1beta/models/*:bidiGenerateContent                    forbidden
GET              /v1beta/models                                          models
GET              /v1beta/models/{model}                                  models
GET              /v1beta/models/*/operations/{operation}                 object
POST             /v1beta/tunedModels/{tuned}:generateContent             generate     gemini_generate
POST             /v1beta/tunedModels/{tuned}:streamGenerateContent       generate     gemini_generate
POST             /v1beta/tunedModels/{tuned}:countTokens                 free         gemini_generate
ANY              /v1beta/tunedModels/**                                  forbidden

POST             /upload/v1beta/files                                    passthrough  +file
POST             /v1beta/files                                           passthrough  +file
GET              /v1beta/files                                           forbidden
GET,DELETE       /v1beta/files/{file}                                    object
GET              /v1beta/files/{file}:download                           object
POST             /v1beta/files:register                                  forbidden
POST             /v1beta/cachedContents                                  passthrough  +cached_content
GET              /v1beta/cachedContents                                  forbidden
GET,DELETE       /v1beta/cachedContents/{cached_content}                 object
PATCH            /v1beta/cachedContents/{cached_content}                 passthrough
GET              /v1beta/batches                                         forbidden
GET,DELETE       /v1beta/batches/{batch}                                 object
POST             /v1beta/batches/{batch}:cancel                          object
GET              /v1beta/operations                                      forbidden
GET              /v1beta/operations/{operation}                          object
POST             /v1beta/fileSearchStores                                passthrough  +file_search_store
GET              /v1beta/fileSearchStores                                forbidden
GET,DELETE       /v1beta/fileSearchStores/{file_search_store}            object
POST             /v1beta/fileSearchStores/{file_search_store}:importFile     passthrough
POST             /upload/v1beta/fileSearchStores/{file_search_store}:uploadToFileSearchStore  passthrough
GET              /v1beta/fileSearchStores/{file_search_store}/documents      object
GET,DELETE       /v1beta/fileSearchStores/{file_search_store}/documents/*    object
GET              /v1beta/fileSearchStores/{file_search_store}/operations/*   object
POST             /v1beta/interactions                                    passthrough  +interaction
GET              /v1beta/interactions                                    forbidden
GET,DELETE       /v1beta/interactions/{interaction}                      object
POST             /v1beta/interactions/{interaction}/cancel               object
ANY              /v1beta/interactions/*/auth_tokens/**                   forbidden

ANY              /v1beta/agents/**                                       forbidden
ANY              /v1beta/auth_tokens/**                                  forbidden
ANY              /v1beta/corpora/**                                      forbidden
ANY              /v1beta/credentials/**                                  forbidden
ANY              /v1beta/environments/**                                 forbidden
ANY              /upload/v1beta/environments/**                          forbidden
ANY              /v1beta/triggers/**                                     forbidden
ANY              /v1beta/voices/**                                       forbidden
ANY              /v1beta/webhooks/**                                     forbidden
"""

# Every row also under /v1beta1.
VERTEX = """
POST        /v1/publishers/google/models/{model}:generateContent                             generate gemini_generate
POST        /v1/publishers/google/models/{model}:streamGenerateContent                       generate gemini_generate
POST        /v1/publishers/google/models/{model}:countTokens                                 free gemini_generate
POST        /v1/publishers/google/models/{model}:computeTokens                               free
POST        /v1/publishers/google/models/{model}:embedContent                                generate gemini_embed
POST        /v1/projects/*/locations/*/publishers/google/models/{model}:generateContent      generate gemini_generate
POST        /v1/projects/*/locations/*/publishers/google/models/{model}:streamGenerateContent generate gemini_generate
POST        /v1/projects/*/locations/*/publishers/google/models/{model}:countTokens          free gemini_generate
POST        /v1/projects/*/locations/*/publishers/google/models/{model}:computeTokens        free
POST        /v1/projects/*/locations/*/publishers/google/models/{model}:embedContent         generate gemini_embed
POST        /v1/projects/*/locations/*/publishers/google/models/{model}:predict              passthrough
POST        /v1/projects/*/locations/*/publishers/google/models/{model}:predictLongRunning   passthrough
POST        /v1/projects/*/locations/*/cachedContents                                        passthrough +cached_content
GET,DELETE  /v1/projects/*/locations/*/cachedContents/{cached_content}                       object
PATCH       /v1/projects/*/locations/*/cachedContents/{cached_content}                       passthrough
ANY         /v1/projects/*/locations/*/endpoints/**                                          forbidden
ANY         /v1/projects/*/locations/*/batchPredictionJobs/**                                forbidden
ANY         /v1/projects/*/locations/*/tuningJobs/**                                         forbidden
"""
