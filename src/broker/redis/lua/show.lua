-- Arguments: place, fingerprint, session, namespace, info, the bytes of infos that a group may have.
local fingerprint, ns, info = ARGV[2], ARGV[4], ARGV[5]
if not is_alive(ARGV[1]) then
  return lapsed()
end
local at = ARGV[1] .. ':' .. ARGV[3]
if is_stale(fingerprint, at) then
  return { 'stale' }
end
local old = call('HGET', 'peer:r:' .. ns, fingerprint)
if old and string.match(old, '^%S+') == at then
  show(space_of(ns), fingerprint, at, info)
end
local queue = call('HGET', 'peer:p:' .. fingerprint, 't:' .. ns)
if queue then
  local key = 'peer:w:' .. ns .. ':' .. queue
  local ticket = string.match(call('HGET', key, fingerprint) or '', '^%S+ %d+ ')
  local size = tonumber(string.match(queue, '^%d+'))
  if ticket and #info <= tonumber(ARGV[6]) / size then
    call('HSET', key, fingerprint, ticket .. info)
  end
end
return { 'done' }
