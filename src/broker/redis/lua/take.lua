-- Takes a lease, or goes on with the one of an earlier epoch.
-- Arguments: node, the least epoch, milliseconds of a lease, the epoch so far or '', the generation last seen or '',
-- 'moved' if it was last seen on another run of the server, milliseconds of the longest standstill that ends no lease.
-- Returns: the epoch, the generation.
local node, least, length, epoch, seen = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local micros = clock[1] * 1000000 + clock[2]
local generation = call('GET', 'peer:generation')
if not generation then
  generation = string.format('%.0f', micros) .. '-' .. node
  call('SET', 'peer:generation', generation)
end
-- Versions rise also over a restart with an older state: changes are fewer than microseconds.
if (tonumber(call('GET', 'peer:version') or nil) or 0) < micros then
  call('SET', 'peer:version', string.format('%.0f', micros))
end
forgive_standstill(length, tonumber(ARGV[7]))
bury_lapsed()
local place = node .. ':' .. epoch
local inbox = call('TYPE', 'peer:in:' .. place).ok
if epoch ~= '' and seen == generation and is_alive(place) and (inbox == 'stream' or inbox == 'none') then
  call('ZADD', 'peer:leases', now + length, place)
  return { epoch, generation }
end
-- What this node had it has given up, whatever is left of the lease. All others saw the server's run end as well: they
-- compare what they have, once this node has told the same sessions again.
for _, other in ipairs(call('ZRANGE', 'peer:leases', 0, -1)) do
  if node_of(other) == node then
    bury(other, ARGV[6] == 'moved')
  end
end
local new = call('INCR', 'peer:epoch')
if new < least then
  new = least
  call('SET', 'peer:epoch', string.format('%.0f', new))
end
new = string.format('%.0f', new)
call('ZADD', 'peer:leases', now + length, node .. ':' .. new)
return { new, generation }
