// The devices of the machine `pc` that a guest can not find by probing. Constants are those of
// vmm/pc_layout.h; what depends on the command line comes from the SSDT that vmm/acpi/tables.cc
// makes. This file goes through the C preprocessor first, for SLOT.

// The wires of one PCI slot: pin n of slot s is GSI 16 + (s + n) % 4, level, active low.
#define SLOT(slot, a, b, c, d)                \
  Package () { 0x##slot##FFFF, 0, 0, a },     \
  Package () { 0x##slot##FFFF, 1, 0, b },     \
  Package () { 0x##slot##FFFF, 2, 0, c },     \
  Package () { 0x##slot##FFFF, 3, 0, d }

// A slot whose device may come and go: ejecting it asks the machine to take the device out.
#define REMOVABLE(slot)                                 \
  Device (S##slot)                                      \
  {                                                     \
      Name (_ADR, 0x00##slot##0000)                     \
      Name (_SUN, 0x##slot)                             \
      Method (_EJ0, 1) { PCEJ (_SUN) }                  \
  }
// Tells the guest's kernel about it if its bit is set.
#define TELL(slot) If (Arg0 & (1 << 0x##slot)) { Notify (S##slot, Arg1) }

DefinitionBlock ("", "DSDT", 2, "RHEA", "RHEAPC", 1)
{
    External (\M64B, IntObj)    // base of the 64-bit PCI window
    External (\M64L, IntObj)    // its length, 0 if there is none
    External (\SERP, IntObj)    // bit n: serial port n is there

    // PM1a_CNT.SLP_TYP for power-off.
    Name (\_S5, Package () { 0, 0, 0, 0 })

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A03"))
            Name (_UID, 0)

            Name (CR32, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    0x0000, 0x0000, 0x0000, 0x0000, 0x0001)
                IO (Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0x0000, 0x0000, 0x0CF7, 0x0000, 0x0CF8)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0x0000, 0x0D00, 0xFFFF, 0x0000, 0xF300)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable,
                    ReadWrite, 0x00000000, 0xC0000000, 0xFEBFFFFF, 0x00000000, 0x3EC00000)
            })
            // The numbers are replaced before anybody sees them.
            Name (CR64, ResourceTemplate ()
            {
                QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable,
                    ReadWrite, 0x0000000000000000, 0x0000000100000000, 0x00000001FFFFFFFF,
                    0x0000000000000000, 0x0000000100000000,,, PW64)
            })
            Method (_CRS, 0, Serialized)
            {
                If (\M64L == 0)
                {
                    Return (CR32)
                }
                CreateQWordField (CR64, \_SB.PCI0.PW64._MIN, WMIN)
                CreateQWordField (CR64, \_SB.PCI0.PW64._MAX, WMAX)
                CreateQWordField (CR64, \_SB.PCI0.PW64._LEN, WLEN)
                WMIN = \M64B
                WMAX = \M64B + \M64L - 1
                WLEN = \M64L
                Return (ConcatenateResTemplate (CR32, CR64))
            }

            Name (_PRT, Package ()
            {
                SLOT (0000, 16, 17, 18, 19), SLOT (0001, 17, 18, 19, 16),
                SLOT (0002, 18, 19, 16, 17), SLOT (0003, 19, 16, 17, 18),
                SLOT (0004, 16, 17, 18, 19), SLOT (0005, 17, 18, 19, 16),
                SLOT (0006, 18, 19, 16, 17), SLOT (0007, 19, 16, 17, 18),
                SLOT (0008, 16, 17, 18, 19), SLOT (0009, 17, 18, 19, 16),
                SLOT (000A, 18, 19, 16, 17), SLOT (000B, 19, 16, 17, 18),
                SLOT (000C, 16, 17, 18, 19), SLOT (000D, 17, 18, 19, 16),
                SLOT (000E, 18, 19, 16, 17), SLOT (000F, 19, 16, 17, 18),
                SLOT (0010, 16, 17, 18, 19), SLOT (0011, 17, 18, 19, 16),
                SLOT (0012, 18, 19, 16, 17), SLOT (0013, 19, 16, 17, 18),
                SLOT (0014, 16, 17, 18, 19), SLOT (0015, 17, 18, 19, 16),
                SLOT (0016, 18, 19, 16, 17), SLOT (0017, 19, 16, 17, 18),
                SLOT (0018, 16, 17, 18, 19), SLOT (0019, 17, 18, 19, 16),
                SLOT (001A, 18, 19, 16, 17), SLOT (001B, 19, 16, 17, 18),
                SLOT (001C, 16, 17, 18, 19), SLOT (001D, 17, 18, 19, 16),
                SLOT (001E, 18, 19, 16, 17), SLOT (001F, 19, 16, 17, 18)
            })

            // The registers of devices/acpi_pci_hotplug.h.
            OperationRegion (PCHP, SystemIO, 0xAE00, 0x1C)
            Field (PCHP, DWordAcc, NoLock, WriteAsZeros)
            {
                PCUP, 32,   // slots that got a device; reading clears
                    , 32,
                PCER, 32,   // lets the devices of slots go
                    , 32,
                PCBN, 32,   // the bus that the others are about
                    , 32,
                PCAS, 32    // slots whose device is asked for; reading clears
            }
            Mutex (PCLK, 0)

            Method (PCEJ, 1)
            {
                Acquire (PCLK, 0xFFFF)
                PCBN = 0
                PCER = (1 << Arg0)
                Release (PCLK)
            }

            REMOVABLE (02) REMOVABLE (03) REMOVABLE (04) REMOVABLE (05)
            REMOVABLE (06) REMOVABLE (07) REMOVABLE (08) REMOVABLE (09)
            REMOVABLE (0A) REMOVABLE (0B) REMOVABLE (0C) REMOVABLE (0D)
            REMOVABLE (0E) REMOVABLE (0F) REMOVABLE (10) REMOVABLE (11)
            REMOVABLE (12) REMOVABLE (13) REMOVABLE (14) REMOVABLE (15)
            REMOVABLE (16) REMOVABLE (17) REMOVABLE (18) REMOVABLE (19)
            REMOVABLE (1A) REMOVABLE (1B) REMOVABLE (1C) REMOVABLE (1D)
            REMOVABLE (1E) REMOVABLE (1F)

            // Notifies the slots in Arg0 of Arg1.
            Method (PCNO, 2)
            {
                TELL (02) TELL (03) TELL (04) TELL (05) TELL (06) TELL (07)
                TELL (08) TELL (09) TELL (0A) TELL (0B) TELL (0C) TELL (0D)
                TELL (0E) TELL (0F) TELL (10) TELL (11) TELL (12) TELL (13)
                TELL (14) TELL (15) TELL (16) TELL (17) TELL (18) TELL (19)
                TELL (1A) TELL (1B) TELL (1C) TELL (1D) TELL (1E) TELL (1F)
            }

            // What came, and what is to go.
            Method (PCNT)
            {
                Acquire (PCLK, 0xFFFF)
                PCBN = 0
                Local0 = PCUP
                Local1 = PCAS
                Release (PCLK)
                PCNO (Local0, 1)    // device check
                PCNO (Local1, 3)    // eject request
            }
        }

        // ACPI's own ports, so that no BAR is put over them.
        Device (PMIO)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0600, 0x0600, 0x01, 0x0C)
                IO (Decode16, 0xAE00, 0xAE00, 0x01, 0x1C)
                IO (Decode16, 0xAFE0, 0xAFE0, 0x01, 0x04)
            })
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 1)
            Method (_STA)
            {
                If (\SERP & 1)
                {
                    Return (0x0F)
                }
                Return (0)
            }
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08)
                IRQNoFlags () { 4 }
            })
        }

        Device (COM2)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 2)
            Method (_STA)
            {
                If (\SERP & 2)
                {
                    Return (0x0F)
                }
                Return (0)
            }
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x02F8, 0x02F8, 0x01, 0x08)
                IRQNoFlags () { 3 }
            })
        }

        Device (RTC)
        {
            Name (_HID, EisaId ("PNP0B00"))
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0070, 0x0070, 0x01, 0x02)
                IRQNoFlags () { 8 }
            })
        }

        Device (KBD)
        {
            Name (_HID, EisaId ("PNP0303"))
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0060, 0x0060, 0x01, 0x01)
                IO (Decode16, 0x0064, 0x0064, 0x01, 0x01)
                IRQNoFlags () { 1 }
            })
        }
    }

    Scope (\_GPE)
    {
        // General-purpose event 1: something about PCI slots.
        Method (_E01)
        {
            \_SB.PCI0.PCNT ()
        }
    }
}
