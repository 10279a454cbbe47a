#!lua flags=allow-oom
-- KEYS: index, sizes. ARGV: prefix of entries, names to drop. Reply: how many were there.
local dropped = 0
for i = 2, #ARGV do
  local had = tonumber(redis.call('HGET', KEYS[2], ARGV[i]) or '0')
  redis.call('DEL', ARGV[1] .. ARGV[i])
  dropped = dropped + redis.call('ZREM', KEYS[1], ARGV[i])
  redis.call('HDEL', KEYS[2], ARGV[i])
  redis.call('HINCRBY', KEYS[2], '', -had)
end
return dropped
