-- Arguments: place, fingerprint, session, aliases.
local place, fingerprint = ARGV[1], ARGV[2]
if not is_alive(place) then
  return lapsed()
end
local key = 'peer:p:' .. fingerprint
local old = call('HGET', key, 'at')
if old then
  replace(fingerprint, old, place)
end
local held = -1
call('HSET', key, 'at', place .. ':' .. ARGV[3])
call('SADD', 'peer:n:' .. place, fingerprint)
for index = 4, #ARGV do
  if is_free(ARGV[index], fingerprint) then
    held = index - 4
    call('SET', 'peer:a:' .. ARGV[index], fingerprint)
    call('HSET', key, 'alias', ARGV[index])
    break
  end
end
return { 'registered', held }
