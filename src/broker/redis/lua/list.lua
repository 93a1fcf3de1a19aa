-- Arguments: namespace, how many at most, bytes of their infos that are enough. Returns: how many there are, entries in join
-- order.
local space = space_of(ARGV[1])
if is_room(space) then
  return { 'refused', 'cannot discover room peers' }
end
if space.live <= 0 then
  return { 'listed', 0, {} }
end
return { 'listed', space.live, members(space, tonumber(ARGV[2]), tonumber(ARGV[3])) }
