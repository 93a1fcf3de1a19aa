-- Arguments: place, fingerprint, session, namespace, name, info, members at most, whether the broker lost everything since
-- the node knew it whole, and for a room its owner and its members at most.
local place, fingerprint, session, ns, name, info = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if not is_alive(place) then
  return lapsed()
end
local at = place .. ':' .. session
if is_stale(fingerprint, at) then
  return { 'stale' }
end
local owner, max = ARGV[9], ARGV[10]
local space = space_of(ns)
-- Others made it again: a room's owner never changes, so to this node it is another room.
if owner and is_room(space) and space.owner ~= owner then
  return { 'refused', 'room not found' }
end
local old = call('HGET', 'peer:r:' .. ns, fingerprint)
if old == at .. ' ' .. info then
  return { 'joined', space.version }
elseif old and string.match(old, '^%S+') == at then
  return { 'joined', show(space, fingerprint, at, info) }
elseif old and (space.live == 0 or is_listed(place_of(old))) then
  return { 'joined', enter(space, fingerprint, at, info, old) }
end
if owner and not is_room(space) then
  if space.live > 0 or ARGV[8] ~= '1' then
    return { 'refused', 'room not found' }
  end
  begin(space, name)
  set_terms(space, owner, max)
else
  local most = is_room(space) and space.max or tonumber(ARGV[7])
  if space.live >= most then
    return { 'refused', owner and 'room full' or 'namespace full' }
  end
  begin(space, name)
end
return { 'joined', enter(space, fingerprint, at, info, old) }
