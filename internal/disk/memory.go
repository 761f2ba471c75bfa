package disk

// HugePage is the size of a huge page where pages have 4 KiB. A direct write hands memory to the device
// in pieces that lie side by side: one for each such page, and else nearly one for each small page.
const HugePage = 2 << 20
