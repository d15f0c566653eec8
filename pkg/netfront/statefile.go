package netfront

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"reflect"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// ErrHandover says that what another process left cannot be gone on with. The answer
// is a new connection.
var ErrHandover = errors.New("cannot go on where the last process was")

// stateVersion is the version of the state file. It changes with the meaning of what is
// in it; stateLayout changes with its layout.
const stateVersion = 1

// stateMagic begins a state file.
const stateMagic = "xnfstate"

// Phases of a connection, as the state file has them.
const (
	phaseMaking = iota // not published yet: there is nothing to go on with
	phaseLive          // the backend has been told of the rings
	phaseEnded         // given up: grants and ports are on their way out
)

// stateHeader is the beginning of a state file: what is fixed for a connection's life,
// and its phase. Everything is in the machine's byte order, since no other machine ever
// reads it.
type stateHeader struct {
	Magic    [8]byte
	Version  uint32
	Sum      uint32 // CRC-32C of the rest of the header without Phase and Attempts, and of all pairRecords
	Layout   uint64 // see stateLayout
	Size     uint64 // of the file
	Phase    uint32 // atomic
	Attempts uint32 // atomic: processes that began to take over and were not seen to work
	Queues   uint32
	Backend  uint32 // domain
	Features uint32 // bits in the order of Features' fields
	Workers  uint32 // of each pair
	MTU      uint32
	Wanted   wanted
	Nonce    stateText // marker of this life of the domain, see restored
	Dir      stateText // the frontend's directory
	Path     stateText // the backend's directory
}

// wanted is what the rings and the TAP were asked to be.
type wanted struct {
	Queues, Features, MTU, TxQueueLen uint32
}

func (c *Config) wanted() wanted {
	return wanted{Queues: uint32(c.Queues), Features: c.Features.bits(), MTU: uint32(c.MTU), TxQueueLen: uint32(c.TxQueueLen)}
}

// same tells whether a connection of w can be gone on with: on the TAP's MTU and queue length
// it does not depend.
func (w wanted) same(o wanted) bool { return w.Queues == o.Queues && w.Features == o.Features }

// stateText is a short text with its length.
type stateText struct {
	Len  uint16
	Text [254]byte
}

func (t *stateText) set(s string) error {
	if len(s) > len(t.Text) {
		return fmt.Errorf("text of %d bytes, at most %d: it begins with %.20q", len(s), len(t.Text), s)
	}
	*t = stateText{Len: uint16(len(s))}
	copy(t.Text[:], s)
	return nil
}

func (t *stateText) get() string { return string(t.Text[:min(int(t.Len), len(t.Text))]) }

// pairRecord is what is fixed of a queue pair: where its grants and event channels are.
type pairRecord struct {
	TxPort, RxPort uint32
	Rings, Tx, Rx  slabRecord
}

// slabRecord finds an allocation of granted pages again.
type slabRecord struct {
	Index uint64 // xen.Pages.Index
	N     uint32
	Refs  [busdma.MaxMaps]uint32
}

func (r *slabRecord) set(p xen.Pages) {
	*r = slabRecord{Index: p.Index(), N: uint32(min(len(p.Refs()), len(r.Refs)))}
	for i := range r.N {
		r.Refs[i] = uint32(p.Refs()[i])
	}
}

func (r *slabRecord) refs() []xen.GrantRef {
	refs := make([]xen.GrantRef, min(int(r.N), len(r.Refs)))
	for i := range refs {
		refs[i] = xen.GrantRef(r.Refs[i])
	}
	return refs
}

// queueState is one queue pair in the state file.
type queueState struct {
	Record pairRecord
	Tx     txState
	Rx     rxState
}

// stateFile is a connection's state in memory that other processes can have: a memfd of
// a header, a queueState and an arena for each pair, each beginning on a page.
type stateFile struct {
	fd   int
	mem  []byte
	head *stateHeader
}

const (
	stateHeaderSize = (int(unsafe.Sizeof(stateHeader{})) + xen.PageSize - 1) &^ (xen.PageSize - 1)
	queueStateSize  = (int(unsafe.Sizeof(queueState{})) + xen.PageSize - 1) &^ (xen.PageSize - 1)
	queueStride     = queueStateSize + arenaSize
)

func stateFileSize(queues int) int { return stateHeaderSize + queues*queueStride }

// newStateFile makes the state of a connection with that many pairs, in phaseMaking.
func newStateFile(queues int) (*stateFile, error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("xnetfrontd state", flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3
		fd, err = unix.MemfdCreate("xnetfrontd state", flags)
	}
	if err != nil {
		return nil, fmt.Errorf("create state file: %w", err)
	}
	f := &stateFile{fd: fd}
	size := stateFileSize(queues)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, errors.Join(fmt.Errorf("size state file: %w", err), f.close())
	}
	// Nobody can make it shorter than a mapping: that would be a SIGBUS.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return nil, errors.Join(fmt.Errorf("seal state file: %w", err), f.close())
	}
	if err := f.mapIt(size); err != nil {
		return nil, errors.Join(err, f.close())
	}
	*f.head = stateHeader{Version: stateVersion, Layout: stateLayout(), Size: uint64(size), Queues: uint32(queues)}
	copy(f.head.Magic[:], stateMagic)
	return f, nil
}

// openStateFile maps the state that another process made, and takes fd over. It fails
// with [ErrHandover], and then fd stays the caller's, when it is no such file, is of
// another layout, or its sum is wrong.
func openStateFile(fd int) (*stateFile, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("%w: state file: %w", ErrHandover, err)
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 {
		return nil, fmt.Errorf("%w: descriptor %d is no state file", ErrHandover, fd)
	}
	if st.Size < int64(stateHeaderSize) || st.Size > int64(stateFileSize(maxQueues)) {
		return nil, fmt.Errorf("%w: state file of %d bytes", ErrHandover, st.Size)
	}
	f := &stateFile{fd: fd}
	if err := f.mapIt(int(st.Size)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHandover, err)
	}
	if err := f.check(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrHandover, err), unix.Munmap(f.mem))
	}
	unix.CloseOnExec(fd)
	return f, nil
}

func (f *stateFile) mapIt(size int) (err error) {
	if f.mem, err = unix.Mmap(f.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map state file: %w", err)
	}
	// Sound: the mapping is page-aligned, longer than the header, of a file that cannot
	// shrink, and stands until close; the struct has no pointers.
	f.head = (*stateHeader)(unsafe.Pointer(&f.mem[0]))
	return nil
}

// check tells whether the file is one that this program can read, and is whole.
func (f *stateFile) check() error {
	h := f.head
	switch {
	case string(h.Magic[:]) != stateMagic:
		return fmt.Errorf("state file begins with %q", h.Magic[:])
	case h.Version != stateVersion || h.Layout != stateLayout():
		return fmt.Errorf("state of version %d, layout %016x; this program has version %d, layout %016x",
			h.Version, h.Layout, stateVersion, stateLayout())
	case h.Queues == 0 || h.Queues > maxQueues || h.Size != uint64(len(f.mem)) || len(f.mem) != stateFileSize(int(h.Queues)):
		return fmt.Errorf("state file of %d bytes for %d queues in %d", len(f.mem), h.Queues, h.Size)
	case h.Sum != f.sum():
		return errors.New("state file's checksum is wrong")
	}
	return nil
}

// sum is the checksum of all that does not change after seal.
func (f *stateFile) sum() uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	const from, phase = unsafe.Offsetof(stateHeader{}.Layout), unsafe.Offsetof(stateHeader{}.Phase)
	sum := crc32.Checksum(f.mem[from:phase], table)
	sum = crc32.Update(sum, table, f.mem[phase+8:stateHeaderSize])
	for i := range int(f.head.Queues) {
		at := stateHeaderSize + i*queueStride
		sum = crc32.Update(sum, table, f.mem[at:at+int(unsafe.Sizeof(pairRecord{}))])
	}
	return sum
}

// seal ends the writing of what does not change.
func (f *stateFile) seal() { f.head.Sum = f.sum() }

func (f *stateFile) phase() uint32     { return atomic.LoadUint32(&f.head.Phase) }
func (f *stateFile) setPhase(p uint32) { atomic.StoreUint32(&f.head.Phase, p) }

// attempt counts one more process that takes over, and tells how many did not work.
func (f *stateFile) attempt() (failed uint32) { return atomic.AddUint32(&f.head.Attempts, 1) - 1 }

// works notes that this process does.
func (f *stateFile) works() { atomic.StoreUint32(&f.head.Attempts, 0) }

// queue is the i-th pair's part. I is below Queues.
func (f *stateFile) queue(i int) *queueState {
	// Sound as in mapIt: the offset is a whole number of pages, and the file as long as
	// its number of queues asks for.
	return (*queueState)(unsafe.Pointer(&f.mem[stateHeaderSize+i*queueStride]))
}

// memory is where the i-th pair keeps its state.
func (f *stateFile) memory(i int) pairMemory {
	q := f.queue(i)
	at := stateHeaderSize + i*queueStride + queueStateSize
	arena := f.mem[at : at+arenaSize : at+arenaSize]
	return pairMemory{
		record: &q.Record,
		tx:     txMemory{state: &q.Tx, arena: arena, close: func() error { return nil }},
		rx:     &q.Rx,
	}
}

// close unmaps the file. Nobody may use what memory returned any more.
func (f *stateFile) close() error {
	var err error
	if f.mem != nil {
		err = unix.Munmap(f.mem)
	}
	f.mem, f.head = nil, nil
	return errors.Join(err, unix.Close(f.fd))
}

// features packs what was agreed into bits, and back.
func (f Features) bits() (b uint32) {
	v := reflect.ValueOf(f)
	for i := range v.NumField() {
		if v.Field(i).Bool() {
			b |= 1 << i
		}
	}
	return b
}

func featuresOf(b uint32) (f Features) {
	v := reflect.ValueOf(&f).Elem()
	for i := range v.NumField() {
		v.Field(i).SetBool(b>>i&1 != 0)
	}
	return f
}

// stateLayout is a checksum of where everything is in a state file. Two programs with
// the same one, and the same stateVersion, read each other's files.
func stateLayout() uint64 {
	h := fnv.New64a()
	h.Write([]byte(describeState()))
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// describeState lists every field of a state file with its offset and type.
func describeState() string {
	var b []byte
	b = fmt.Appendf(b, "buffers %d of %d bytes, maps %d\n", txBatch, frameRoom, busdma.MaxMaps)
	b = describe(b, "header", reflect.TypeFor[stateHeader](), 0)
	b = describe(b, "queue", reflect.TypeFor[queueState](), 0)
	b = describe(b, "features", reflect.TypeFor[Features](), 0)
	return string(b)
}

func describe(b []byte, name string, t reflect.Type, at uintptr) []byte {
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			b = describe(b, name+"."+f.Name, f.Type, at+f.Offset)
		}
		return b
	case reflect.Array:
		return fmt.Appendf(b, "%s %d [%d]%s\n", name, at, t.Len(), t.Elem().Kind())
	}
	return fmt.Appendf(b, "%s %d %s\n", name, at, t.Kind())
}
