#!lua
-- KEYS: index, sizes, claim, entry. ARGV: name, blob, ttl in ms, owner, bytes allowed, prefix of entries.
-- Entries are dropped, the longest unused first, until the new one fits; 0 where it never will.
local index, sizes, name = KEYS[1], KEYS[2], ARGV[1]
if redis.call('GET', KEYS[3]) == ARGV[4] then redis.call('DEL', KEYS[3]) end
local size, room = #ARGV[2], tonumber(ARGV[5])
if size > room then return 0 end

local function forget(old)
  local had = tonumber(redis.call('HGET', sizes, old) or '0')
  redis.call('DEL', ARGV[6] .. old)
  redis.call('ZREM', index, old)
  redis.call('HDEL', sizes, old)
  return redis.call('HINCRBY', sizes, '', -had)
end

local total = forget(name)
while total + size > room do
  local oldest = redis.call('ZRANGE', index, 0, 0)[1]
  if not oldest then break end
  total = forget(oldest)
end
local now = redis.call('TIME')
redis.call('SET', KEYS[4], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', index, now[1] * 1000000 + now[2], name)
redis.call('HSET', sizes, name, size)
redis.call('HINCRBY', sizes, '', size)
return 1
