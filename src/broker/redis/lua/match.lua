-- Arguments: place, fingerprint, session, namespace, name, info, group size, criteria, ticket, whether it is refused if it
-- would have to wait, whether it may wait already, the name of the group, the numbers of inbox entries that this node has missed:
-- the first, and the one after the last.
local place, fingerprint, session, ns, info = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6]
-- How long it is known that a request was met: a node that comes back later may have its requests met again.
local MET_MS = 60000
local size, ticket = tonumber(ARGV[7]), ARGV[9]
if not is_alive(place) then
  return lapsed()
end
local at = place .. ':' .. session
if is_stale(fingerprint, at) then
  return { 'stale' }
end
local own = 'peer:p:' .. fingerprint
local queue = ARGV[7] .. ':' .. ARGV[8]
local order, waiting = 'peer:q:' .. ns .. ':' .. queue, 'peer:w:' .. ns .. ':' .. queue
local entry = at .. ' ' .. ticket .. ' ' .. info
if ARGV[11] == '1' and call('HGET', own, 't:' .. ns) == queue then
  local old_session, old_ticket = string.match(call('HGET', waiting, fingerprint) or '', '^%x+:%d+:(%d+) (%d+) ')
  if old_session == session and old_ticket == ticket then
    call('HSET', waiting, fingerprint, entry)
    return { 'waiting' }
  end
end
-- A request that was met is not to be met again: this node will hear of it, if it was told to the inbox of this epoch and is
-- not one of the entries that it has missed.
local met = 'peer:t:%s:%s'
if ARGV[11] == '1' then
  local told = call('GET', string.format(met, node_of(place), ticket))
  if told then
    local epoch, number = string.match(told, '^(%d+) 1%-(%d+)$')
    number = tonumber(number)
    local is_missed = number and tonumber(ARGV[13]) <= number and number < tonumber(ARGV[14])
    if number and not is_missed and place == node_of(place) .. ':' .. epoch then
      return { 'done' }
    end
    return { 'refused', 'broker unavailable' }
  end
end
withdraw(ns, fingerprint)

-- The oldest whose nodes are alive. The dead are taken out on the way, so those found always stand first. If the dead are
-- many the asker has it run again.
local DEAD_MAX = 100
local needed, found, entries, dead = size - 1, {}, {}, 0
if call('ZCARD', order) >= needed then
  while #found < needed do
    local keys = call('ZRANGE', order, #found, needed - 1)
    if #keys == 0 then
      break
    end
    for index, other in ipairs(call('HMGET', waiting, unpack(keys))) do
      if other and is_alive(place_of(other)) then
        found[#found + 1], entries[#entries + 1] = keys[index], other
      elseif dead == DEAD_MAX then
        return { 'again' }
      else
        dead = dead + 1
        call('ZREM', order, keys[index])
        call('HDEL', waiting, keys[index])
        if call('HGET', 'peer:p:' .. keys[index], 't:' .. ns) == queue then
          call('HDEL', 'peer:p:' .. keys[index], 't:' .. ns)
        end
      end
    end
  end
end
if #found < needed then
  if ARGV[10] == '1' then
    return { 'refuse' }
  end
  call('ZADD', order, call('INCR', 'peer:version'), fingerprint)
  call('HSET', waiting, fingerprint, entry)
  call('HSET', own, 't:' .. ns, queue)
  return { 'waiting' }
end

if needed > 0 then
  call('ZREM', order, unpack(found))
  call('HDEL', waiting, unpack(found))
end
for _, other in ipairs(found) do
  call('HDEL', 'peer:p:' .. other, 't:' .. ns)
end
found[size], entries[size] = fingerprint, entry
local shared = { 'e', 'matched', 'ns', ns, 'name', ARGV[5], 'g', ARGV[12] }
local concerned = {}
for index, other in ipairs(entries) do
  local there, of_session, of_ticket, shown = string.match(other, '^(%x+:%d+):(%d+) (%d+) (.*)$')
  shared[#shared + 1] = 'i'
  shared[#shared + 1] = shown
  concerned[there] = concerned[there] or {}
  table.insert(concerned[there], found[index] .. ':' .. of_session .. ':' .. of_ticket)
end
for there, theirs in pairs(concerned) do
  local fields = { unpack(shared) }
  for _, one in ipairs(theirs) do
    fields[#fields + 1] = 'w'
    fields[#fields + 1] = one
  end
  local id = tell({ [there] = true }, unpack(fields))
  local node, epoch = string.match(there, '^(%x+):(%d+)$')
  for _, one in ipairs(theirs) do
    -- A place that was not told is marked dead: whatever stands there is refused.
    call('SET', string.format(met, node, string.match(one, '%d+$')), epoch .. ' ' .. (id or ''), 'PX', MET_MS)
  end
end
return { 'done' }
