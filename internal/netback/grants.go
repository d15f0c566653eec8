package netback

import (
	"errors"
	"io/fs"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

// Results of a grant copy, GNTST_* of xen/include/public/grant_table.h. Netback puts
// them into rx responses as they are.
const (
	grantOkay         = 0
	grantGeneralError = -1 // not granted to this domain, or not for writing
	grantBadDomain    = -2
	grantBadRef       = -3
)

// pageCache is the guest's pages as one worker sees them, by grant reference. A page
// stays mapped for the worker's life, but each use asks the guest's grant table
// whether the grant still stands, as each grant copy of the hypervisor's does. It
// belongs to one goroutine.
type pageCache struct {
	domain   Domain
	from     xen.DomID
	writable bool
	maps     []Page // by reference
}

// page returns the page granted as ref, or the status of a failed copy. The guest
// can change the page at any time.
func (p *pageCache) page(ref uint32) ([]byte, int16) {
	if uint64(ref) < uint64(len(p.maps)) {
		if m := p.maps[ref]; m != nil && m.Live() {
			return m.Bytes(), grantOkay
		}
	}
	return p.load(ref)
}

func (p *pageCache) load(ref uint32) ([]byte, int16) {
	if uint64(ref) < uint64(len(p.maps)) && p.maps[ref] != nil {
		p.maps[ref].Unmap()
		p.maps[ref] = nil
	}
	m, err := p.domain.MapForCopy(p.from, xen.GrantRef(ref), p.writable)
	if err != nil {
		return nil, grantStatus(err)
	}
	// The reference exists, so it is below the length of a grant table.
	if n := int(ref) + 1 - len(p.maps); n > 0 {
		p.maps = append(p.maps, make([]Page, n)...)
	}
	p.maps[ref] = m
	return m.Bytes(), grantOkay
}

func grantStatus(err error) int16 {
	switch {
	case errors.Is(err, unix.ENOENT):
		return grantBadRef
	case errors.Is(err, unix.ESRCH):
		return grantBadDomain
	case errors.Is(err, fs.ErrPermission):
		return grantGeneralError
	}
	return grantGeneralError
}

func (p *pageCache) close() {
	for _, m := range p.maps {
		if m != nil {
			m.Unmap()
		}
	}
	p.maps = nil
}
