-- Arguments: place, fingerprint, session, whether it held an alias, the alias, and what it has: m: or t: and a namespace's id.
local place, fingerprint, session, alias = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1' and ARGV[5] or nil
if not is_alive(place) then
  return lapsed()
end
local key = 'peer:p:' .. fingerprint
local at = place .. ':' .. session
local old = call('HGET', key, 'at')
if old and old ~= at then
  local old_place = place_of(old)
  if node_of(old) ~= node_of(place) and is_alive(old_place) then
    return { 'taken' }
  elseif old == old_place .. ':' .. session and node_of(old) == node_of(place) then
    call('SREM', 'peer:n:' .. old_place, fingerprint)
  else
    replace(fingerprint, old, place)
  end
end
call('HSET', key, 'at', at)
call('SADD', 'peer:n:' .. place, fingerprint)
local keep = {}
for index = 6, #ARGV do
  keep[ARGV[index]] = true
end
leave_all(fingerprint, call('HGETALL', key), keep)
local had = call('HGET', key, 'alias')
if had and had ~= alias then
  free_alias(fingerprint, had)
  call('HDEL', key, 'alias')
end
if alias and is_free(alias, fingerprint) then
  call('SET', 'peer:a:' .. alias, fingerprint)
  call('HSET', key, 'alias', alias)
  return { 'registered', 0 }
end
if alias then
  call('HDEL', key, 'alias')
end
return { 'registered', -1 }
