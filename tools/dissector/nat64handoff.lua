-- Wireshark dissector for the NAT64 handoff protocol
-- (draft-dupont-6man-nat64handoff-00 §4–§7, §9).
--
-- Try it:     wireshark -X lua_script:nat64handoff.lua capture.pcap
--             tshark -X lua_script:nat64handoff.lua -r capture.pcap -V
-- Install it: copy this file into the folder that Help > About Wireshark >
--             Folders > Personal Lua Plugins names.
--
-- The server's UDP port is a preference (Edit > Preferences > Protocols >
-- NAT64HANDOFF, or -o nat64handoff.port:NUMBER); IANA assigned none, 64064 is
-- the default. Any other port: Analyze > Decode As.
--
-- Filters worth knowing:
--   nat64handoff.entry.client == 2001:db8::17        all that is about a client
--   nat64handoff.entry.mapped_port == 3719           who is behind this port
--   nat64handoff.entries > 1                         multi-entry payloads (§7)
--   nat64handoff.type == 5                           a token key was rotated
--   nat64handoff.unknown_format || nat64handoff.cut_message
--                                                    some of what receivers drop
--
-- Embedded packets go to the dissectors for IPv4 and IPv6, so their fields
-- (ip.src, ipv6.dst, tcp.port, …) can be filtered for, too. What is malformed is
-- named like the counters of nat64d and handoffd: nat64handoff.cut_message, ….
-- Works with Wireshark 3.6 and later.

local proto = Proto("nat64handoff", "NAT64 Handoff")

local IDENTIFIER = "[[ This is the NAT64 handoff protocol. The client is using "
	.. "IPv6. To know their real IP address you need to use this "
	.. "protocol or support IPv6. ]]"
local MAX_MULTI_ENTRY = 1232
local NO_NEXT_HEADER = 59
-- A payload can hold a packet that holds a payload, as a returned validation
-- packet does. Deeper nesting is an attack on the dissector.
local MAX_DEPTH = 4

local FORMATS = { [3] = "Handoff message", [4] = "IPv4 packet", [6] = "IPv6 packet" }
local TYPES = {
	[1] = "Protocol identifier",
	[2] = "No-op",
	[3] = "Invalid",
	[4] = "Token",
	[5] = "Token rotation",
	[6] = "Remote IPv6 address authenticator",
	[7] = "Connection tracking entry",
	[8] = "Mapped port hint",
}
local SHORT = { "identifier", "no-op", "invalid", "token", "rotation", "authenticator", "entry", "hint" }

local f = {
	format = ProtoField.uint8("nat64handoff.format", "Format", base.DEC, FORMATS, 0xf0),
	type = ProtoField.uint8("nat64handoff.type", "Type", base.DEC, TYPES, 0x0f),
	length = ProtoField.uint8("nat64handoff.length", "Length in units of 16 bits", base.DEC),
	identifier = ProtoField.string("nat64handoff.identifier", "Protocol identifier"),
	token = ProtoField.bytes("nat64handoff.token", "Token"),
	rotation = ProtoField.bytes("nat64handoff.rotation", "Token as the key before computed it"),
	authenticator = ProtoField.bytes("nat64handoff.authenticator", "Authenticator"),
	epoch = ProtoField.uint16("nat64handoff.epoch", "Key epoch, if nat64d made it", base.DEC),
	mapped_port = ProtoField.uint16("nat64handoff.entry.mapped_port", "Mapped port", base.DEC),
	prefix = ProtoField.ipv6("nat64handoff.entry.prefix", "NAT64 /96 prefix"),
	client = ProtoField.ipv6("nat64handoff.entry.client", "Client address"),
	client_port = ProtoField.uint16("nat64handoff.entry.client_port", "Client port", base.DEC),
	hint = ProtoField.uint16("nat64handoff.hint", "Suggested port", base.DEC),
	data = ProtoField.bytes("nat64handoff.data", "Data"),
	entries = ProtoField.uint32("nat64handoff.entries", "Entries in this payload", base.DEC),
	packet = ProtoField.uint8("nat64handoff.packet", "Embedded packet, IP version", base.DEC),
}
local fields = {}
for _, field in pairs(f) do
	fields[#fields + 1] = field
end
proto.fields = fields

local function malformed(name, text)
	return ProtoExpert.new("nat64handoff." .. name, text, expert.group.MALFORMED, expert.severity.ERROR)
end
local function questionable(name, text)
	return ProtoExpert.new("nat64handoff." .. name, text, expert.group.PROTOCOL, expert.severity.WARN)
end
local e = {
	empty = malformed("empty", "The payload holds no message"),
	unknown_format = malformed("unknown_format", "Unknown message format: the receiver drops the payload"),
	cut_message = malformed("cut_message", "The message ends behind the payload"),
	cut_packet = malformed("cut_packet", "The embedded packet ends behind the payload"),
	bad_packet = malformed("bad_packet", "The embedded packet's lengths contradict each other"),
	octets_after_packet = malformed("octets_after_packet", "Octets follow the embedded packet, which must be last"),
	bad_length = malformed("bad_length", "The length is not the one that this type has"),
	bad_identifier = malformed("bad_identifier", "The protocol identifier is another text"),
	too_long = questionable("too_long", "A multi-entry payload of more than 1232 octets"),
	duplicate = questionable("duplicate", "A second message of a type that may come once"),
	no_authenticator = questionable("no_authenticator", "An entry or IPv6 packet has no authenticator"),
	packet_among_groups = questionable("packet_among_groups", "A multi-entry payload holds a packet"),
	entry_outside_group = questionable("entry_outside_group", "The entry stands in front of the first authenticator"),
	empty_group = questionable("empty_group", "The authenticator is followed by no entry"),
	not_captured = ProtoExpert.new("nat64handoff.not_captured", "The rest was not captured or not quoted",
		expert.group.UNDECODED, expert.severity.NOTE),
	too_deep = ProtoExpert.new("nat64handoff.too_deep", "Payloads within payloads: not followed further",
		expert.group.UNDECODED, expert.severity.WARN),
}
local experts = {}
for _, expert_info in pairs(e) do
	experts[#experts + 1] = expert_info
end
proto.experts = experts

local DEFAULT_PORT = 64064
proto.prefs.port = Pref.uint("Server UDP port", DEFAULT_PORT, "The UDP port of the handoff server")
local registered = 0

local function register()
	local udp = DissectorTable.get("udp.port")
	if registered ~= 0 then
		udp:remove(registered, proto)
	end
	registered = proto.prefs.port
	if registered ~= 0 then
		udp:add(registered, proto)
	end
end

function proto.prefs_changed()
	if proto.prefs.port ~= registered then
		register()
	end
end

-- opaque shows a MAC. nat64d's have 18 octets and begin with the key's epoch;
-- another NAT64's may look different, so the epoch is marked as a guess.
local function opaque(field)
	return function(data, tree)
		local item = tree:add(field, data)
		if data:len() == 18 then
			item:add(f.epoch, data(0, 2)):set_generated()
		end
	end
end

-- prefix_address is the /96 prefix as an address with zeros behind it, because
-- a field has all 16 octets.
local function prefix_address(data)
	local hex = data:bytes():tohex() .. "00000000"
	return Address.ipv6((hex:gsub("%x%x%x%x", "%0:", 7)))
end

local function show_entry(data, tree, state)
	tree:add(f.mapped_port, data(0, 2))
	tree:add(f.prefix, data(2, 12), prefix_address(data(2, 12)))
	tree:add(f.client, data(14, 16))
	tree:add(f.client_port, data(30, 2))
	state.entries = state.entries + 1
	local text = string.format("[%s]:%d at port %d", tostring(data(14, 16):ipv6()), data(30, 2):uint(), data(0, 2):uint())
	tree:append_text(": " .. text)
	if state.entries == 1 then
		state.first_entry = text
	end
end

local function show_identifier(data, tree)
	tree:add(f.identifier, data)
	if data:string() ~= IDENTIFIER then
		tree:add_proto_expert_info(e.bad_identifier)
	end
end

local function show_hint(data, tree)
	tree:add(f.hint, data)
end

-- What the data of a type looks like: its length in octets, where there is but
-- one, and the function that shows it.
local DATA = {
	[1] = { length = #IDENTIFIER, show = show_identifier },
	[4] = { show = opaque(f.token) },
	[5] = { show = opaque(f.rotation) },
	[6] = { show = opaque(f.authenticator) },
	[7] = { length = 32, show = show_entry },
	[8] = { length = 2, show = show_hint },
}

-- arrange notes what stands in front of what; conclude looks at all of it.
local function arrange(kind, tree, state)
	if kind == 6 then
		if state.pending then
			state.empty[#state.empty + 1] = state.pending
		end
		state.pending = tree
	elseif kind == 7 then
		if not state.count[6] then
			state.stray[#state.stray + 1] = tree
		end
		state.pending = nil
	elseif kind ~= 2 and DATA[kind] and state.count[kind] then
		tree:add_proto_expert_info(e.duplicate)
	end
	state.count[kind] = (state.count[kind] or 0) + 1
end

-- conclude says what the payload as a whole lacks (§5–§7).
local function conclude(buffer, root, state)
	local authenticators, entries = state.count[6] or 0, state.count[7] or 0
	if entries > 0 or state.version == 6 then
		-- A validation packet may hold a token in place of the authenticator.
		if authenticators == 0 and not (entries == 0 and state.validation) then
			root:add_proto_expert_info(e.no_authenticator)
		end
	end
	if authenticators < 2 and entries < 2 then
		return
	end
	for _, tree in ipairs(state.stray) do
		tree:add_proto_expert_info(e.entry_outside_group)
	end
	state.empty[#state.empty + 1] = state.pending
	for _, tree in ipairs(state.empty) do
		tree:add_proto_expert_info(e.empty_group)
	end
	if state.version then
		root:add_proto_expert_info(e.packet_among_groups)
	end
	if buffer:reported_len() > MAX_MULTI_ENTRY then
		root:add_proto_expert_info(e.too_long)
	end
end

-- lacking says why there are too few octets: they were not captured, an ICMP
-- error does not quote them, or they never were in the payload.
local function lacking(buffer, tree, state, why)
	if state.quoted or buffer:reported_len() > buffer:captured_len() then
		why = e.not_captured
	end
	tree:add_proto_expert_info(why)
end

-- message shows the handoff message at offset. It returns the next offset, or
-- nil when what follows cannot be read.
local function message(buffer, offset, root, state)
	local left = buffer:captured_len() - offset
	local kind = buffer(offset, 1):bitfield(4, 4)
	local length = left >= 2 and buffer(offset + 1, 1):uint() * 2
	local whole = length and left >= 2 + length
	local tree = root:add(proto, buffer(offset, whole and 2 + length or left), TYPES[kind] or "Reserved type")
	tree:add(f.format, buffer(offset, 1))
	tree:add(f.type, buffer(offset, 1))
	if length then
		tree:add(f.length, buffer(offset + 1, 1)):append_text(string.format(" (%d octets)", length))
	end
	if not whole then
		lacking(buffer, tree, state, e.cut_message)
		return nil
	end
	state.summary[#state.summary + 1] = SHORT[kind] or "type " .. kind
	arrange(kind, tree, state)
	local form = DATA[kind] or {}
	if form.length and length ~= form.length then
		tree:add_proto_expert_info(e.bad_length)
		form = {}
	end
	if length > 0 then
		local data = buffer(offset + 2, length)
		if form.show then
			form.show(data, tree, state)
		else
			tree:add(f.data, data)
		end
	end
	return offset + 2 + length
end

-- own_length is how long the IP packet at offset says that it is; nil and the
-- reason when its header does not say.
local function own_length(buffer, offset, version)
	local left = buffer:captured_len() - offset
	if version == 6 then
		if left < 40 then
			return nil, e.cut_packet
		end
		return 40 + buffer(offset + 4, 2):uint()
	end
	if left < 20 then
		return nil, e.cut_packet
	end
	local header, total = buffer(offset, 1):bitfield(4, 4) * 4, buffer(offset + 2, 2):uint()
	if header < 20 or total < header then
		return nil, e.bad_packet
	end
	return total
end

local depth = 0

-- hand_on gives the packet to its own dissector and puts back what that changes
-- about the packet around it. An error in there has been shown in its place.
local function hand_on(range, version, pinfo, tree)
	local src, dst, src_port, dst_port = pinfo.src, pinfo.dst, pinfo.src_port, pinfo.dst_port
	depth = depth + 1
	pcall(function()
		Dissector.get(version == 4 and "ip" or "ipv6"):call(range:tvb(), pinfo, tree)
	end)
	depth = depth - 1
	pinfo.src, pinfo.dst, pinfo.src_port, pinfo.dst_port = src, dst, src_port, dst_port
end

-- packet shows the embedded packet at offset, the last thing in a payload.
local function packet(buffer, offset, version, pinfo, root, state)
	local left = buffer:captured_len() - offset
	local length, why = own_length(buffer, offset, version)
	local shown = math.min(length or left, left)
	local tree = root:add(proto, buffer(offset, shown), FORMATS[version])
	tree:add(f.format, buffer(offset, 1))
	tree:add(f.packet, buffer(offset, 1), version):set_generated()
	state.summary[#state.summary + 1] = FORMATS[version]
	state.version = version
	if not length then
		if why == e.cut_packet then
			lacking(buffer, tree, state, why)
		else
			tree:add_proto_expert_info(why)
		end
		return
	end
	state.validation = version == 6 and buffer(offset + 6, 1):uint() == NO_NEXT_HEADER
	if length > left then
		lacking(buffer, tree, state, e.cut_packet)
	elseif length < left then
		tree:add_proto_expert_info(e.octets_after_packet)
	end
	if depth >= MAX_DEPTH then
		tree:add_proto_expert_info(e.too_deep)
		return
	end
	hand_on(buffer(offset, shown), version, pinfo, tree)
end

local function info(state)
	local text = table.concat(state.summary, ", ")
	if state.first_entry then
		text = text .. ": " .. state.first_entry
	end
	if state.entries > 1 then
		text = text .. string.format(" and %d more", state.entries - 1)
	end
	return text
end

function proto.dissector(buffer, pinfo, parent)
	local root = parent:add(proto, buffer(), "NAT64 Handoff")
	local state = { count = {}, summary = {}, empty = {}, stray = {}, entries = 0, quoted = pinfo.in_error_pkt }
	local length, offset = buffer:captured_len(), 0
	if length == 0 then
		lacking(buffer, root, state, e.empty)
	end
	while offset and offset < length do
		local format = buffer(offset, 1):bitfield(0, 4)
		if format == 3 then
			offset = message(buffer, offset, root, state)
		elseif format == 4 or format == 6 then
			packet(buffer, offset, format, pinfo, root, state)
			offset = nil
		else
			local tree = root:add(proto, buffer(offset), "Unknown format")
			tree:add(f.format, buffer(offset, 1))
			tree:add_proto_expert_info(e.unknown_format)
			offset = nil
		end
	end
	if offset and length > 0 or state.version then
		conclude(buffer, root, state)
	end
	if state.entries > 0 then
		root:add(f.entries, buffer(0, 0), state.entries):set_generated()
	end
	if depth == 0 then
		pinfo.cols.protocol = "NAT64HO"
		pinfo.cols.info = info(state)
	end
	return length
end

register()
