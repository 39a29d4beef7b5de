package server

// What a mapped port may be (draft §10).
const (
	firstPort  = 1024
	numPorts   = 65536 - firstPort
	teredoPort = 3544

	// maxMapped leaves out Teredo's port, the server's and the NAT64's own.
	maxMapped = numPorts - 3
)

// portIndex finds the entry of a mapped port. A page of 256 ports exists once
// one of them is taken, so that a NAT64 with few entries costs little. Part of
// a channel, and guarded as it is. The zero value is empty.
type portIndex struct{ pages [256]*[256]uint32 }

// owner is the index of the entry that has the port, 0 when it is free.
func (p *portIndex) owner(port uint16) uint32 {
	page := p.pages[port>>8]
	if page == nil {
		return 0
	}
	return page[port&0xff]
}

func (p *portIndex) set(port uint16, i uint32) {
	page := p.pages[port>>8]
	if page == nil {
		page = new([256]uint32)
		p.pages[port>>8] = page
	}
	page[port&0xff] = i
}
