BEGIN TRANSACTION;
CREATE TABLE llmguard_alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT llmguard_alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "llmguard_alembic_version" VALUES('0004');
CREATE TABLE llmguard_audit (
	seq BIGINT NOT NULL, 
	at BIGINT NOT NULL, 
	actor TEXT NOT NULL, 
	action TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	details TEXT NOT NULL, 
	prev TEXT NOT NULL, 
	hash TEXT NOT NULL, 
	PRIMARY KEY (seq)
)
 WITHOUT ROWID

;
INSERT INTO "llmguard_audit" VALUES(1,1790000100000,'alice@host','key.create','k1','{"budget":"$5/day","team":"search"}','','b6d37a77da7d3a24bc2b81e442f482ec09c2a85b9d839850bf05c2e05eaac7a2');
INSERT INTO "llmguard_audit" VALUES(2,1790000100000,'process 1-aa','trip','task:t1:0','{"allowed":4,"cost_nano":12345678,"env":"prod","feature":"chat","id":"01a0c451-f2a0-7aaa-9e2f-eb89414c343c","rule":"paid_attempts","scope":"task","seen":4,"task":"app.summarise","task_id":"t1","team":"search","tree_id":"t1","unit":"attempts"}','b6d37a77da7d3a24bc2b81e442f482ec09c2a85b9d839850bf05c2e05eaac7a2','700b3da676562faf32a1f74110bf1653a0edb11c9a0f94413b0d4ac19ded1c8b');
CREATE TABLE llmguard_audit_head (
	id SMALLINT NOT NULL, 
	seq BIGINT NOT NULL, 
	hash TEXT NOT NULL, 
	seal TEXT NOT NULL, 
	PRIMARY KEY (id)
)
 WITHOUT ROWID

;
INSERT INTO "llmguard_audit_head" VALUES(0,2,'700b3da676562faf32a1f74110bf1653a0edb11c9a0f94413b0d4ac19ded1c8b','8606021c1329ea1837837f6f7c42edf0c7bd05e6fabd72e8072e91df50bd8a59');
CREATE TABLE llmguard_dead_letters (
	id TEXT NOT NULL, 
	at BIGINT NOT NULL, 
	task TEXT NOT NULL, 
	task_id TEXT NOT NULL, 
	tree_id TEXT, 
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	env TEXT NOT NULL, 
	feature TEXT NOT NULL, 
	rule TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	content_type TEXT NOT NULL, 
	content_encoding TEXT NOT NULL, 
	body BLOB NOT NULL, 
	options TEXT NOT NULL, 
	requeued_at BIGINT, 
	requeued_by TEXT, 
	requeued_as TEXT, 
	published_at BIGINT, 
	PRIMARY KEY (id)
)
 WITHOUT ROWID

;
INSERT INTO "llmguard_dead_letters" VALUES('01a0c451-f2a0-7bbb-9e2f-eb89414c343c',1790000100000,'app.summarise','t1','t1','default','search','prod','chat','paid_attempts','stopped after 4 paid attempts','application/json','utf-8',X'5B5B315D2C207B2261223A2022C3BC227D5D','{"queue": "slow"}',NULL,NULL,NULL,NULL);
CREATE TABLE llmguard_entries (
	event_id TEXT NOT NULL, 
	attempt_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	rev SMALLINT NOT NULL, 
	created_at BIGINT NOT NULL, 
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	env TEXT NOT NULL, 
	feature TEXT NOT NULL, 
	end_user TEXT, 
	principal TEXT, 
	key_id TEXT, 
	task_id TEXT, 
	tree_id TEXT, 
	trace_id TEXT, 
	provider TEXT NOT NULL, 
	model_requested TEXT NOT NULL, 
	model_served TEXT, 
	dialect TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	stream BOOLEAN NOT NULL, 
	status BIGINT NOT NULL, 
	input_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	cached_input_tokens BIGINT, 
	cache_write_tokens BIGINT, 
	reasoning_tokens BIGINT, 
	cost_nano BIGINT NOT NULL, 
	cost_input_nano BIGINT NOT NULL, 
	cost_output_nano BIGINT NOT NULL, 
	saved_nano BIGINT NOT NULL, 
	estimate_nano BIGINT NOT NULL, 
	cap_nano BIGINT NOT NULL, 
	usage_source TEXT NOT NULL, 
	price_version TEXT NOT NULL, 
	cache TEXT, 
	finish_reason TEXT, 
	latency_ms BIGINT NOT NULL, 
	ttft_ms BIGINT, 
	bytes_in BIGINT NOT NULL, 
	bytes_out BIGINT NOT NULL, 
	interrupted TEXT, 
	metadata TEXT, 
	calls SMALLINT NOT NULL, 
	charges BLOB NOT NULL, model TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (event_id, attempt_id, kind, rev)
)
 WITHOUT ROWID

;
INSERT INTO "llmguard_entries" VALUES('01a0c451-f2a0-77ed-9e2f-eb89414c343c','01a0c451-f2a0-778e-b311-d8a3c2ce6f44','POST',3,1790000100000,'default','ads','prod','chat','u1','k1','k1',NULL,NULL,NULL,'openai','gpt-4o','gpt-4o-2024-08-06','openai_chat','/v1/chat/completions',0,200,1000,200,128,NULL,NULL,12345678,2345678,10000000,0,20000000,50000000,'provider','test-1',NULL,'stop',1500,200,4000,9000,NULL,'{"a":"ü"}',1,X'9394BF7573647C686F75727C313739303030303130303030307C7465616D3D616473A3757364CE00BC614ECF000001A0C488E12094D921746F6B656E737C6461797C313739303030303130303030307C7465616D3D616473A6746F6B656E73CD04B0CF000001A0C9784EA094AD63616C6C737C6C6976657C307CA563616C6C730000','gpt-4o');
INSERT INTO "llmguard_entries" VALUES('01a0c451-f2a0-7d8f-91b7-584a2265b1f5','01a0c451-f2a0-7102-8386-bbc4cd613e30','ADJUST',3,1790000100000,'default','search','prod','chat',NULL,'k1','k1',NULL,NULL,NULL,'openai','gpt-4o','gpt-4o-2024-08-06','openai_chat','/v1/chat/completions',1,200,0,0,0,NULL,NULL,-50,0,0,0,0,0,'provider','test-1',NULL,'stop',1500,200,0,0,NULL,NULL,0,X'9394D9227573647C686F75727C313739303030303130303030307C7465616D3D736561726368A3757364CD0352CF000001A0C488E12094D924746F6B656E737C6461797C313739303030303130303030307C7465616D3D736561726368A6746F6B656E73CD04B0CF000001A0C9784EA094AD63616C6C737C6C6976657C307CA563616C6C730000','');
INSERT INTO "llmguard_entries" VALUES('01a0c451-f2a0-7d8f-91b7-584a2265b1f5','01a0c451-f2a0-7102-8386-bbc4cd613e30','POST',1,1790000100000,'default','search','prod','chat',NULL,'k1','k1',NULL,NULL,NULL,'openai','gpt-4o','gpt-4o-2024-08-06','openai_chat','/v1/chat/completions',1,200,1000,200,128,NULL,NULL,900,2345678,10000000,0,20000000,50000000,'estimated','test-1',NULL,'stop',1500,200,4000,9000,NULL,NULL,1,X'9394D9227573647C686F75727C313739303030303130303030307C7465616D3D736561726368A3757364CD0384CF000001A0C488E12094D924746F6B656E737C6461797C313739303030303130303030307C7465616D3D736561726368A6746F6B656E73CD04B0CF000001A0C9784EA094AD63616C6C737C6C6976657C307CA563616C6C730000','');
CREATE TABLE llmguard_keys (
	id TEXT NOT NULL, 
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	env TEXT NOT NULL, 
	feature TEXT NOT NULL, 
	budget TEXT, 
	created_at BIGINT NOT NULL, 
	expires_at BIGINT, 
	revoked_at BIGINT, 
	secret_hmac BLOB NOT NULL, 
	previous_hmac BLOB, 
	previous_until BIGINT, 
	changed BIGINT NOT NULL, 
	PRIMARY KEY (id)
)
 WITHOUT ROWID

;
INSERT INTO "llmguard_keys" VALUES('obwusmwx9bhm','default','search','prod','chat','$5/day',1790000100000,NULL,NULL,X'4433F124350C33FBA5E19FBD13FCE82CC368632C538467B7CF91C5F27356B744',X'EB0150233751BFDA111E46ADAA982B6A299FBC72AD5975E0F5C2D8609EEB20AE',1790086500000,2);
CREATE TABLE llmguard_objects (
	provider TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	id TEXT NOT NULL, 
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	event_id TEXT, 
	PRIMARY KEY (provider, kind, id)
)
 WITHOUT ROWID

;
INSERT INTO "llmguard_objects" VALUES('openai','file','f1','default','ads',1790000100000,'01a0c451-f2a0-77ed-9e2f-eb89414c343c');
CREATE TABLE llmguard_payloads (
	event_id TEXT NOT NULL, 
	at BIGINT NOT NULL, 
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	prompt TEXT NOT NULL, 
	reply TEXT NOT NULL, 
	prompt_bytes BIGINT NOT NULL, 
	reply_bytes BIGINT NOT NULL, 
	redacted BOOLEAN NOT NULL, 
	PRIMARY KEY (event_id)
)
 WITHOUT ROWID

;
INSERT INTO "llmguard_payloads" VALUES('01a0c451-f2a0-7ccc-9e2f-eb89414c343c',1790000100000,'default','search','{"q": "hi"}','hello',11,5,1);
CREATE TABLE llmguard_refusals (
	minute BIGINT NOT NULL, 
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	env TEXT NOT NULL, 
	feature TEXT NOT NULL, 
	code TEXT NOT NULL, 
	refused BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (minute, org, team, env, feature, code)
)
 WITHOUT ROWID

;
INSERT INTO "llmguard_refusals" VALUES(1790000100000,'default','search','prod','chat','budget_exceeded',7);
CREATE TABLE llmguard_rollups (
	bucket_start BIGINT NOT NULL, 
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	env TEXT NOT NULL, 
	feature TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	provider TEXT NOT NULL, 
	model TEXT NOT NULL, 
	calls BIGINT DEFAULT '0' NOT NULL, 
	input_tokens BIGINT DEFAULT '0' NOT NULL, 
	output_tokens BIGINT DEFAULT '0' NOT NULL, 
	cached_input_tokens BIGINT DEFAULT '0' NOT NULL, 
	cache_write_tokens BIGINT DEFAULT '0' NOT NULL, 
	reasoning_tokens BIGINT DEFAULT '0' NOT NULL, 
	cost_nano BIGINT DEFAULT '0' NOT NULL, 
	saved_nano BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (bucket_start, org, team, env, feature, key_id, provider, model)
)
 WITHOUT ROWID

;
INSERT INTO "llmguard_rollups" VALUES(1790000100000,'default','ads','prod','chat','k1','openai','gpt-4o',1,1000,200,128,0,0,12345678,0);
INSERT INTO "llmguard_rollups" VALUES(1790000100000,'default','search','prod','chat','k1','openai','gpt-4o-2024-08-06',1,1000,200,128,0,0,850,0);
CREATE TABLE llmguard_spools (
	spool TEXT NOT NULL, 
	seq BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	PRIMARY KEY (spool)
)
 WITHOUT ROWID

;
INSERT INTO "llmguard_spools" VALUES('1-aa',9,1790000100000);
CREATE TABLE llmguard_trips (
	id TEXT NOT NULL, 
	at BIGINT NOT NULL, 
	scope TEXT NOT NULL, 
	name TEXT NOT NULL, 
	rule TEXT NOT NULL, 
	allowed BIGINT NOT NULL, 
	seen BIGINT NOT NULL, 
	unit TEXT NOT NULL, 
	org TEXT NOT NULL, 
	team TEXT NOT NULL, 
	env TEXT NOT NULL, 
	feature TEXT NOT NULL, 
	task TEXT, 
	task_id TEXT, 
	tree_id TEXT, 
	cost_nano BIGINT NOT NULL, 
	reset_at BIGINT, 
	reset_by TEXT, 
	PRIMARY KEY (id)
)
 WITHOUT ROWID

;
INSERT INTO "llmguard_trips" VALUES('01a0c451-f2a0-7aaa-9e2f-eb89414c343c',1790000100000,'task','task:t1:0','paid_attempts',4,4,'attempts','default','search','prod','chat','app.summarise','t1','t1',12345678,NULL,NULL);
CREATE TABLE llmguard_versions (
	name TEXT NOT NULL, 
	value BIGINT NOT NULL, 
	PRIMARY KEY (name)
)
 WITHOUT ROWID

;
INSERT INTO "llmguard_versions" VALUES('keys',2);
CREATE INDEX llmguard_entries_created_at ON llmguard_entries (created_at);
CREATE VIEW ledger_entries AS
SELECT event_id, attempt_id, kind, strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1000.0, 'unixepoch') AS created_at, org, team, env, feature, end_user, principal, key_id,
  task_id, tree_id, trace_id, provider, model_requested, model_served, dialect, endpoint, stream, status, input_tokens,
  output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, cost_nano, cost_nano / 1000000000.0 AS cost_usd,
  saved_nano, usage_source, price_version, cache, finish_reason, latency_ms, ttft_ms
FROM llmguard_entries;
CREATE INDEX ix_llmguard_keys_changed ON llmguard_keys (changed);
CREATE INDEX llmguard_trips_at ON llmguard_trips (at);
CREATE INDEX llmguard_trips_name ON llmguard_trips (name);
CREATE INDEX llmguard_dead_letters_at ON llmguard_dead_letters (at);
CREATE INDEX llmguard_payloads_at ON llmguard_payloads (at);
COMMIT;
